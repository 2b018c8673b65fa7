//! What programs and agents rely on: the schemas of the reports, the SKILL.md, the history.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::needs_root;
use crate::refusals::failed;
use crate::support::{Ran, lbpayload, run};
use crate::workspace::Workspace;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Checks `value` with the parts of JSON Schema that ours uses. A field that the schema does not
/// have is wrong too: it should be described.
fn check(schema: &Value, root: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/$defs/").unwrap();
        return check(&root["$defs"][name], root, value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = |schema: &&Value| schema["type"] == "null" && value.is_null();
        let other = any.iter().find(fits).unwrap_or(&any[0]);
        return check(other, root, value, at);
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{at}: unknown type {other}"),
    };
    assert!(types.iter().any(is), "{at}: {value} is not {types:?}");
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is not in {words:?}");
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        check(&schema["items"], root, item, &format!("{at}[{number}]"));
    }
    let Some(fields) = value.as_object() else {
        return;
    };
    for name in schema["required"].as_array().unwrap() {
        assert!(
            fields.contains_key(name.as_str().unwrap()),
            "{at}: no {name}"
        );
    }
    for (name, field) in fields {
        let schema = &schema["properties"][name];
        assert!(schema.is_object(), "{at}: {name} is not in the schema");
        check(schema, root, field, &format!("{at}.{name}"));
    }
}

#[test]
fn reports_match_their_schemas() {
    needs_root!();
    let schema = json(&run(["promote", "schema"]).exits(0).stdout);
    let fits = |name: &str, ran: &Ran| {
        let value = json(&ran.stdout);
        check(&schema["$defs"][name], &schema, &value, name);
    };
    let it = Workspace::new();
    let manifest = fs::read_to_string(it.path("Source/.build-manifest.yaml")).unwrap();
    it.put(
        "Source/.build-manifest.yaml",
        format!("more: 1\n{manifest}"),
    );
    fits("status", &it.action(&["status", "--json"]).exits(1));
    fits("promote", &it.promote(&["--dry-run", "--json"]).exits(0));
    fits("promote", &it.promote(&["diff", "--json"]).exits(0));
    fits("promote", &it.promote(&["--json"]).exits(0));
    // The sample has no real kernel.
    fits("verify", &it.action(&["verify", "--json"]).exits(1));
    it.git(&it.overlay(), &["rm", "-q", "bootloader/board.conf"]);
    it.git(&it.overlay(), &["commit", "-qm", "gone"]);
    fits("promote", &it.promote(&["--json", "--prune"]).exits(0));
    let image = it.l4t("").display().to_string();
    fits(
        "promote",
        &it.promote(&["--json", "--image", &image]).exits(0),
    );
    fits("rollback", &it.action(&["rollback", "--json"]).exits(0));
    it.put("tool-fails", "");
    let args = ["--refresh-initramfs", "--json"];
    fits("error", &it.promote(&args).exits(1));
    fits("history", &it.action(&["history", "--json"]).exits(0));
    fits("status", &it.action(&["status", "--json"]).exits(1));
    it.put("Source/Linux_for_Tegra/new", "x");
    fits("error", &it.promote(&["--json"]).exits(1));
    fits("error", &it.promote(&["--json", "--nonsense"]).exits(2));
}

#[test]
fn commands_of_the_skill_run_and_its_routes_are_those_of_the_program() {
    needs_root!();
    let skill = run(["promote", "skill"]).exits(0).stdout;
    let begin = "---\nname: lbpayload-promote\ndescription: ";
    assert!(skill.starts_with(begin), "{skill}");
    let it = Workspace::new();
    let commands: Vec<&str> = skill
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("$ "))
        .collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        // It calls this program and nothing else.
        assert_eq!(words[..2], ["lbpayload", "promote"], "{command}");
        let ran = Ran::of(lbpayload().args(&words[1..]).current_dir(it.path("")));
        json(&ran.exits(0).stdout);
    }
    // The table of codes names codes that exist, with the routes that the program gives.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let codes = fs::read_to_string(root.join("docs/errors.md")).unwrap();
    let source = fs::read_to_string(root.join("src/cli/promote/explain.rs")).unwrap();
    let source = source.split("pub(super) fn explain").next().unwrap();
    let quoted = |text: &str, sign: char| -> Vec<String> {
        text.split(sign)
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    let (mut routes, mut rows) = (BTreeSet::new(), 0);
    let is_row = |line: &&str| line.starts_with("| `") && !line.starts_with("| `code`");
    for row in skill.lines().filter(is_row) {
        let cells: Vec<&str> = row.split('|').skip(1).collect();
        for code in quoted(cells[0], '`') {
            rows += 1;
            assert!(codes.contains(&format!("\n| `{code}` |")), "{code}");
            if let [route] = &quoted(cells[1], '`')[..] {
                assert!(source.contains(&format!("\"{code}\"")), "{code}");
                routes.insert(route.clone());
            }
        }
    }
    assert!(rows > 15, "{rows}");
    let given = quoted(source, '"').into_iter();
    let given: BTreeSet<String> = given.filter(|word| word.starts_with('/')).collect();
    assert_eq!(routes, given);
}

#[test]
fn history_says_why_a_run_failed_and_where_its_log_is() {
    needs_root!();
    let it = Workspace::new();
    it.put("tool-fails", "");
    failed(
        it.promote(&["--json"]),
        "initramfs-failed",
        "exit status: 3",
    );
    let log = it.l4t(".lbpayload/logs/000001.log");
    let expected = |stdout: &str| {
        let reason = "  because: could not ";
        let lines: Vec<&str> = stdout.lines().collect();
        assert!(lines[0].ends_with(", failed"), "{stdout}");
        assert!(lines[1].starts_with("  because: ") || lines[1].starts_with(reason));
        assert!(
            lines[1].contains("rebuilding the initramfs failed"),
            "{stdout}"
        );
        assert_eq!(lines[2], format!("  log: {}", log.display()));
    };
    expected(&it.action(&["history"]).exits(0).stdout);
    // The log of that run stays when the next one has another.
    fs::remove_file(it.path("tool-fails")).unwrap();
    it.promote(&[]).exits(0);
    expected(&it.action(&["history"]).exits(0).stdout);
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("no space in the chroot"), "{said}");
    let history = json(&it.action(&["history", "--json"]).exits(0).stdout);
    assert_eq!(history[0]["log"], log.to_str().unwrap());
    let reason = history[0]["message"].as_str().unwrap();
    assert!(reason.contains("exit status: 3"), "{reason}");
    assert!(history[1]["message"].is_null());
}
