//! `lbpayload cat`

use crate::fixture::{Place, sample};
use crate::support::Image;

#[test]
fn cat_prints_the_bytes_of_the_files_named_in_that_order() {
    let image = sample();
    let place = Place::new(&image);
    let ran = lb!["cat", &place.image, "d-medium", "c-large", "b-small"].exits(0);
    let expected = [&image.files[3].1[..], &image.files[2].1, b"hello"].concat();
    assert!(
        ran.stdout_bytes == expected,
        "{} bytes came",
        ran.stdout_bytes.len()
    );
    assert_eq!(ran.stderr, "");
}

#[test]
fn cat_prints_a_file_as_often_as_it_is_named() {
    let place = Place::new(&sample());
    let ran = lb!["cat", &place.image, "b-small", "a-empty", "b-small"].exits(0);
    assert_eq!(ran.stdout, "hellohello");
}

#[test]
fn cat_reads_the_early_dialect() {
    let place = Place::new(&sample().narrow());
    let ran = lb!["cat", &place.image, "e-last"].exits(0);
    assert_eq!(ran.stdout, "größe");
}

#[test]
fn cat_of_a_name_that_is_not_there_prints_nothing_and_says_how_to_find_the_names() {
    let place = Place::new(&sample());
    let ran = lb!["cat", &place.image, "b-small", "nope", "also\nnot"].exits(1);
    assert_eq!(ran.stdout, "");
    let ran = ran.says("also\\nnot, nope").says("lbpayload: help: ");
    assert!(ran.stderr.contains(&*place.image.to_string_lossy()));
}

#[test]
fn cat_needs_a_name() {
    let place = Place::new(&sample());
    let ran = lb!["cat", &place.image].exits(2).says("<NAME>...");
    assert_eq!(ran.stdout, "");
}

#[test]
fn cat_is_not_held_up_by_what_is_broken_behind_its_file() {
    let image = sample();
    let place = Place::with_bytes(&image.bytes()[..image.header_offsets()[3] + 5]);
    let ran = lb!["cat", &place.image, "b-small", "c-large"].exits(0);
    assert_eq!(ran.stdout_bytes.len(), 5 + 2_500_001);
    let ran = lb!["cat", &place.image, "b-small", "e-last"].exits(1);
    assert_eq!(ran.stdout, "", "nothing is printed before all are found");
    let ran = ran
        .says("e-last")
        .says("the entry header is cut off: expected 16 bytes, found 5");
    assert!(
        ran.stderr
            .contains(&format!("at offset {}", image.header_offsets()[3]))
    );
}

#[test]
fn cat_saves_a_file_whose_name_the_import_refuses() {
    let place = Place::new(&Image::new(&[("ok", b"1"), ("../up", b"climbs")]));
    place.import().exits(1);
    assert_eq!(lb!["cat", &place.image, "../up"].exits(0).stdout, "climbs");
}
