//! A build without the feature `net`.
#![cfg(not(feature = "net"))]

use crate::fixture::fails_with;

#[test]
fn a_build_without_net_says_so_when_it_gets_a_url() {
    for args in [
        &["list", "--json"][..],
        &["verify", "--json"],
        &["import", "--json", "--device"],
    ] {
        let url = "HTTPS://user:hunter2@host/x?sig=hunter2";
        let ran = crate::support::run([args, &[url]].concat());
        let ran = ran.says("this build of lbpayload cannot read URLs");
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
        fails_with(ran, "no-net");
    }
}
