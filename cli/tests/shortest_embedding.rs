//! The example that README shows is the one that is compiled, it is short, and it works.
#![allow(
    clippy::disallowed_methods,
    reason = "a test beside the nodes, not inside one"
)]

use std::process::Command;

const EXAMPLE: &str = include_str!("../examples/shortest.rs");
const README: &str = include_str!("../../README.md");

#[test]
fn readme_shows_the_example_as_it_is() {
    assert!(
        README.contains(&format!("```rust\n{EXAMPLE}```\n")),
        "copy cli/examples/shortest.rs into README.md"
    );
    assert!(EXAMPLE.lines().count() < 40);
}

#[test]
fn the_example_answers() {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let example = profile
        .join("examples")
        .join(format!("shortest{}", std::env::consts::EXE_SUFFIX));
    assert!(
        example.exists(),
        "{} is not built: run `cargo build --example shortest` first",
        example.display()
    );
    let output = Command::new(example).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.starts_with("hello world, from the owner of shard "),
        "{text}"
    );
}
