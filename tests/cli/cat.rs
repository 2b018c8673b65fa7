//! `lbpayload cat`

use crate::fixture::{Place, sample};
use crate::support::Image;

#[test]
fn cat_prints_the_named_files_in_the_given_order() {
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
fn cat_prints_a_file_named_twice_twice() {
    let place = Place::new(&sample());
    let ran = lb!["cat", &place.image, "b-small", "a-empty", "b-small"].exits(0);
    assert_eq!(ran.stdout, "hellohello");
}

#[test]
fn cat_reads_the_u32_dialect() {
    let place = Place::new(&sample().narrow());
    let ran = lb!["cat", &place.image, "e-last"].exits(0);
    assert_eq!(ran.stdout, "größe");
}

#[test]
fn cat_of_a_missing_name_prints_nothing_and_advises_how_to_list_names() {
    let place = Place::new(&sample());
    let ran = lb!["cat", &place.image, "b-small", "nope", "also\nnot"].exits(1);
    assert_eq!(ran.stdout, "");
    let ran = ran.says("also\\nnot`, `nope").says("lbpayload: help: ");
    assert!(ran.stderr.contains(&*place.image.to_string_lossy()));
}

#[test]
fn cat_requires_a_name() {
    let place = Place::new(&sample());
    let ran = lb!["cat", &place.image].exits(2).says("<NAME>...");
    assert_eq!(ran.stdout, "");
}

#[test]
fn cat_ignores_damage_after_its_file() {
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
fn cat_prints_a_file_whose_name_import_refuses() {
    let place = Place::new(&Image::new(&[("ok", b"1"), ("../up", b"climbs")]));
    place.import().exits(1);
    assert_eq!(lb!["cat", &place.image, "../up"].exits(0).stdout, "climbs");
}
