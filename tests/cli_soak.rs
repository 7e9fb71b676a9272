//! `soak`, short.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/json.rs"]
mod json;

use std::process::Command;

use json::Json;

#[test]
fn a_short_soak_kills_nodes_and_finds_every_acknowledged_write_on_each_disk() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catamaran"));
    command.args(["soak", "--minutes", "0.2", "--kill-every", "3"]);
    command.args(["--clients", "4", "--seed", "1", "--json"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let object = Json::parse(&String::from_utf8(output.stdout).unwrap());
    for key in ["lost", "doubled", "unexpected"] {
        assert_eq!(object.number(key), 0, "{key}");
    }
    assert_eq!(object.get("identical"), &Json::Bool(true));
    assert!(object.number("kills") >= 1, "{object:?}");
    assert!(object.number("acknowledged") >= 1);
    assert!(object.number("last_index") >= object.number("acknowledged"));
    assert!(object.number("memory_max_kib") >= 1);
    assert!(matches!(
        object.get("memory_slope_kib_per_min"),
        Json::Real(_)
    ));
}
