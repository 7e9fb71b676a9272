//! `simulate`, as programs read it.

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
fn simulate_prints_one_object_and_the_same_seeds_come_to_the_same() {
    let object = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catamaran"));
        command.args(["simulate", "--seeds", "3..8", "--steps", "500", "--json"]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let object = Json::parse(&String::from_utf8(output.stdout).unwrap());
        assert!(matches!(object.get("events_per_s"), Json::Number(_)));
        object.without("events_per_s")
    };
    let first = object();
    assert_eq!(first.get("seeds"), &Json::Number(5));
    assert_eq!(first.get("violations"), &Json::Number(0));
    let Json::Number(events) = first.get("events") else {
        panic!("{first:?}");
    };
    assert!(*events >= 5 * 500, "{events}");
    assert_eq!(object(), first);
}
