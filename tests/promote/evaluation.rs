//! The two cases with which NVIDIA's skill for promoting is evaluated, as an agent sees them
//! through the JSON.

use serde_json::Value;

use crate::needs_root;
use crate::workspace::{MODULES, Workspace};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn promote_with_a_clean_overlay_and_a_manifest_leaves_an_image_to_flash() {
    needs_root!();
    let it = Workspace::new();
    let plan = json(&it.promote(&["--dry-run", "--json"]).exits(0).stdout);
    assert_eq!(plan["next"], serde_json::json!([]));
    assert_eq!(plan["needs_privilege"], true);
    let done = json(&it.promote(&["--json"]).exits(0).stdout);
    let counts = |channel: &str| &done["counts"][channel]["copied"];
    assert_eq!(
        (counts("overlay"), counts("manifest")),
        (&3.into(), &4.into())
    );
    assert_eq!(done["mirror"], "copied to rootfs/boot/Image");
    assert_eq!(done["initramfs"], "rebuilt");
    assert_eq!(
        done["next"],
        serde_json::json!(["/jetson-flash-image", "/jetson-validate-image"])
    );
    assert_eq!(it.read("rootfs/boot/Image"), "new kernel\n");
    assert_eq!(
        it.read(&format!("{MODULES}/updates/nv.ko")),
        "new nv module\n"
    );
    let status = json(&it.action(&["status", "--json"]).exits(0).stdout);
    assert_eq!(status["ok"], true);
    // The second time there is nothing to do.
    let again = json(&it.promote(&["--json"]).exits(0).stdout);
    assert!(again["id"].is_null());
    assert_eq!(again["next"], done["next"]);
}

#[test]
fn promote_of_a_stale_build_is_refused_and_leads_to_the_build() {
    needs_root!();
    let it = Workspace::new();
    let oot = it.path("Source/bsp_sources/nvidia-oot");
    std::fs::write(oot.join("Makefile"), "customized\n").unwrap();
    it.git(&oot, &["commit", "-qam", "customize"]);
    let before = it.everything_and_when();
    let ran = it.promote(&["--json"]).exits(1);
    let error = &json(&ran.stdout)["error"];
    assert_eq!(error["code"], "stale-build");
    assert_eq!(error["route"], "/jetson-build-source");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("nvidia-oot is at "), "{message}");
    let help = error["help"][0].as_str().unwrap();
    assert!(help.contains("/jetson-build-source"), "{help}");
    assert_eq!(it.everything_and_when(), before);
    assert_eq!(it.refreshes(), 0);
}
