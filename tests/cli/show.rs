//! `lbpayload show`

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Place, sample, spoil, sums_of};
use crate::support::{Image, Ran, lbpayload, noise};

/// Two large files of one size, a small one, and checksums of which the second is wrong.
fn with_a_wrong_file() -> Place {
    let mut image = Image::new(&[
        ("first", &noise(1, 100_000)),
        ("second", &noise(2, 100_000)),
        ("third", b"3"),
    ]);
    let sums = spoil(&sums_of(&image), "second");
    image
        .files
        .push((b"SHA256SUMS".to_vec(), sums.into_bytes()));
    Place::new(&image)
}

/// Returns the image's map, without the other lines.
fn map_of(text: &str) -> String {
    text.lines().skip(1).take(8).collect()
}

#[test]
fn a_map_without_a_terminal_is_plain_and_in_proportion() {
    let place = with_a_wrong_file();
    let ran = lb!["show", &place.image].exits(0);
    assert_eq!(ran.stderr, "");
    let map = map_of(&ran.stdout);
    assert_eq!(map.len(), 512, "{}", ran.stdout);
    let count = |c: char| map.chars().filter(|x| *x == c).count();
    // 100,000 of 200,400 bytes each.
    assert!((253..=257).contains(&count('#')), "{}", ran.stdout);
    assert!((253..=257).contains(&count('=')), "{}", ran.stdout);
    assert_eq!(count('X'), 0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        lines[0].ends_with("external.img: 4 files, 195.63 KiB (u64)"),
        "{}",
        lines[0]
    );
    assert!(lines[9].starts_with("#=%+o files"), "{}", lines[9]);
    assert_eq!(lines[10], "  49.9 %     97.66 KiB  first");
    assert_eq!(lines[11], "  49.9 %     97.66 KiB  second");
}

#[test]
fn verify_shows_the_wrong_file_as_damaged() {
    let place = with_a_wrong_file();
    let ran = lb!["show", "--verify", &place.image].exits(1);
    let map = map_of(&ran.stdout);
    let damaged: Vec<usize> = (0..512).filter(|i| map.as_bytes()[*i] == b'X').collect();
    // The second file as a whole: nobody knows which of its bytes is wrong.
    assert!((254..=258).contains(&damaged.len()), "{}", ran.stdout);
    assert_eq!(damaged.last().unwrap() - damaged[0], damaged.len() - 1);
    assert!(ran.stdout.contains("X damaged"));
    ran.says("`second` of");
}

#[test]
fn a_protected_payload_shows_its_trailer_and_the_damaged_block() {
    let place = Place::with_bytes(b"");
    let input = place.file("data", noise(3, 2_000_000));
    lb!["pack", "--protect=20", "-o", &place.image, &input].exits(0);
    let mut bytes = std::fs::read(&place.image).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&place.image, bytes).unwrap();
    let ran = lb!["show", &place.image].exits(0);
    assert!(ran.stdout.contains("protected with 20 percent"));
    assert!(map_of(&ran.stdout).ends_with("~~~~"), "{}", ran.stdout);
    let ran = lb!["show", "--verify", &place.image].exits(1);
    let damaged = map_of(&ran.stdout).matches('X').count();
    assert!((1..=2).contains(&damaged), "{}", ran.stdout);
}

#[test]
fn a_cut_image_shows_what_is_left() {
    let mut bytes = sample().bytes();
    bytes.truncate(1_000_000);
    let place = Place::with_bytes(&bytes);
    let ran = lb!["show", &place.image].exits(1);
    assert!(map_of(&ran.stdout).contains('X'), "{}", ran.stdout);
    ran.says("is cut off");
}

#[test]
fn hostile_names_stay_text() {
    let name = "</script><b>&amp;'\"\u{1b}[2J";
    let place = Place::new(&Image::new(&[(name, &noise(1, 5000))]));
    let ran = lb!["show", &place.image];
    assert!(!ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
    let page = place.dir().join("map.html");
    let svg = place.dir().join("map.svg");
    lb!["show", "--html", &page, "--svg", &svg, &place.image];
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("</script>").count(), 1, "only the page's own");
    assert!(!page.contains("<b>"));
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg ") && !svg.contains("<b>"), "{svg}");
}

#[test]
fn a_file_that_cannot_be_written_fails_and_leaves_nothing() {
    let place = Place::new(&sample());
    lb!["show", "--svg", "/no/such/dir/map.svg", &place.image]
        .exits(1)
        .says("/no/such/dir");
}

#[test]
fn a_terminal_shows_the_map_while_it_is_verified() {
    let place = with_a_wrong_file();
    let program = lbpayload().get_program().to_str().unwrap().to_owned();
    let line = format!("{program} show --verify {}", place.image.display());
    // script(1) gives it a terminal.
    let ran = Ran::of(
        Command::new("script")
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(std::process::Stdio::null()),
    )
    .exits(1);
    let text = &ran.stdout;
    assert!(text.contains('░'), "what was not read yet is dim: {text:?}");
    assert!(text.contains("\u{1b}[8A"), "it is drawn in place: {text:?}");
    assert!(text.contains('█') && text.contains("damaged"), "{text:?}");
}

/// Opens a page in a browser without a window, and returns what is on it after its script has run.
fn in_a_browser(page: &Path) -> String {
    let profile = tempfile::tempdir().unwrap();
    let ran = Ran::of(
        Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
            .arg("--virtual-time-budget=5000")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("file://{}", page.display())),
    );
    ran.exits(0).stdout
}

#[test]
fn the_page_sorts_and_searches_in_a_browser() {
    let place = with_a_wrong_file();
    let page: PathBuf = place.dir().join("map.html");
    let ran = lb!["show", "--verify", "--html", &page, &place.image].exits(1);
    assert_eq!(ran.stdout, "");
    let text = std::fs::read_to_string(&page).unwrap();
    // What a person would do, at the end of the page's own script.
    let acted = text.replace(
        "draw();\n</script>",
        "document.querySelector('[data-key=size]').click();\n\
         document.querySelector('[data-key=size]').click();\n\
         search.value = 'IR'; search.dispatchEvent(new Event('input'));\n</script>",
    );
    assert_ne!(text, acted);
    std::fs::write(&page, acted).unwrap();
    let shown = in_a_browser(&page);
    let at = |what: &str| {
        shown
            .find(what)
            .unwrap_or_else(|| panic!("{what}: {shown}"))
    };
    assert!(
        at("<td>first</td>") < at("<td>third</td>"),
        "the largest comes first"
    );
    assert!(
        !shown.contains("<td>second</td>"),
        "the search leaves it out"
    );
    assert!(shown.contains("2 of 4 files"));
    assert!(
        shown.contains("class=\"found\""),
        "the map shows what was found"
    );
    assert!(shown.contains(", damaged here</title>"));
}
