//! nginx as the server, with and without ranges, and with TLS by an authority of our own.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::fixture::{Files, Place, json, tries};
use crate::support::{Lacks, Ran, check, skip};

/// A running nginx that ends on drop. Its root is `root/` in its directory.
pub struct Nginx {
    pub dir: tempfile::TempDir,
    pub plain: u16,
    pub without_ranges: u16,
    pub tls: u16,
    pub expired: u16,
    child: Child,
}

/// Returns whether nginx is missing, and reports the skip.
pub fn is_missing() -> bool {
    let missing = ["/usr/sbin/nginx", "/usr/bin/nginx"]
        .iter()
        .all(|p| !Path::new(p).exists());
    if missing {
        skip(Lacks::Setup, "no nginx");
    }
    missing
}

impl Nginx {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        // Its workers are another user.
        check(Command::new("chmod").arg("755").arg(at));
        std::fs::create_dir(at.join("root")).unwrap();
        authority(at);
        // Reserved until nginx listens on them; nothing else takes them from the kernel then.
        let listeners: Vec<_> = (0..4)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports: Vec<u16> = listeners
            .iter()
            .map(|l| l.local_addr().unwrap().port())
            .collect();
        drop(listeners);
        let [plain, without_ranges, tls, expired] = ports[..] else {
            unreachable!()
        };
        let d = at.display();
        let config = format!(
            "daemon off; pid {d}/pid; error_log {d}/error.log; worker_processes 2;
             events {{ worker_connections 64; }}
             http {{
               access_log off; gzip on; gzip_types *; gzip_min_length 1; sendfile on;
               client_body_temp_path {d}/body; proxy_temp_path {d}/proxy;
               fastcgi_temp_path {d}/fcgi; uwsgi_temp_path {d}/uwsgi; scgi_temp_path {d}/scgi;
               root {d}/root;
               server {{ listen 127.0.0.1:{plain}; }}
               server {{ listen 127.0.0.1:{without_ranges}; max_ranges 0; }}
               server {{ listen 127.0.0.1:{tls} ssl; listen 127.0.0.3:{tls} ssl;
                 ssl_certificate {d}/good.pem; ssl_certificate_key {d}/server.key; }}
               server {{ listen 127.0.0.1:{expired} ssl;
                 ssl_certificate {d}/expired.pem; ssl_certificate_key {d}/server.key; }}
             }}"
        );
        std::fs::write(at.join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("-c")
            .arg(at.join("nginx.conf"))
            .args(["-e", &format!("{d}/error.log")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", expired)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            dir,
            plain,
            without_ranges,
            tls,
            expired,
            child,
        }
    }

    pub fn serving(files: &Files) -> Self {
        let nginx = Self::start();
        for (name, data) in files.iter() {
            std::fs::write(nginx.root().join(name), data).unwrap();
        }
        nginx
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It stops its workers.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// Makes an authority, a certificate by it, and one that has expired.
fn authority(dir: &Path) {
    let openssl = |args: &str| {
        let mut command = Command::new("openssl");
        check(command.args(args.split_whitespace()).current_dir(dir));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ours");
    openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    std::fs::write(
        dir.join("ca.conf"),
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n\
         policy=p\nx509_extensions=e\nunique_subject=no\n[p]\ncommonName=supplied\n\
         [e]\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n",
    )
    .unwrap();
    std::fs::write(dir.join("index"), "").unwrap();
    std::fs::write(dir.join("serial"), "01\n").unwrap();
    let sign = "ca -batch -config ca.conf -cert ca.pem -keyfile ca.key -in server.csr -notext";
    openssl(&format!("{sign} -days 20 -out good.pem"));
    openssl(&format!(
        "{sign} -startdate 20200101000000Z -enddate 20210101000000Z -out expired.pem"
    ));
}

#[test]
fn fetch_from_nginx_with_and_without_ranges() {
    if is_missing() {
        return;
    }
    let files = Files::new(4, 300_000);
    let nginx = Nginx::serving(&files);
    for (port, resumed) in [(nginx.plain, 100_000), (nginx.without_ranges, 0)] {
        let place = Place::new(&files);
        // A first run finds only the start of a file, which its server has not completed.
        let whole = files.iter().next().unwrap().1;
        std::fs::write(nginx.root().join("f000.tar.gz"), whole).unwrap();
        let mirror = format!("http://127.0.0.1:{port}");
        Ran::of(&mut place.fetch_from(&[&mirror], &[])).exits(0);
        place.has_all();
        let sum = crate::support::sha256sum(whole);
        let key = &crate::support::sha256sum(b"f000.tar.gz")[..8];
        std::fs::remove_file(place.dest().join("f000.tar.gz")).unwrap();
        let part = place
            .dest()
            .join(format!(".lbpayload-fetch-{sum}-{key}.part"));
        std::fs::write(part, &whole[..100_000]).unwrap();
        let report = json(&mut place.fetch_from(&[&mirror], &[]), 0);
        place.has_all();
        assert_eq!(report["entries"][0]["resumed"], resumed);
    }
}

#[test]
fn fetch_over_tls_trusts_the_system_and_refuses_other_certificates() {
    if is_missing() {
        return;
    }
    let files = Files::new(2, 100_000);
    let nginx = Nginx::serving(&files);
    let place = Place::new(&files);
    let fetch = |port: u16, host: &str, trusted: bool| {
        let mut command = place.fetch_from(&[&format!("https://{host}:{port}/")], &[]);
        if trusted {
            command.env("SSL_CERT_FILE", nginx.authority());
        }
        command
    };
    for (port, host, trusted, said) in [
        (
            nginx.tls,
            "localhost",
            false,
            "its certificate is from an unknown authority",
        ),
        (
            nginx.expired,
            "localhost",
            true,
            "its certificate has expired",
        ),
        (nginx.tls, "127.0.0.2", true, "could not connect"),
        (nginx.plain, "localhost", true, "TLS failed ("),
    ] {
        let report = json(&mut fetch(port, host, trusted), 1);
        assert!(tries(&report, 0).contains(said), "{said}: {report}");
        assert!(place.has_nothing_wrong());
    }
    Ran::of(&mut fetch(nginx.expired, "localhost", true))
        .exits(1)
        .says("help: check the clock (`date`), if it is right");
    Ran::of(&mut fetch(nginx.tls, "localhost", true)).exits(0);
    place.has_all();
}
