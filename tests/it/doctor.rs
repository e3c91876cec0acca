//! `tollgate doctor` on this machine: it tries what it finds, and says what mends it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const POLICY: &str = "
secretStores: { store: { egressAllowlist: [\"*.example.com\"] } }
sandboxes: { sb-only: { secretStores: [store] } }
";

fn tollgate(folder: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", folder)
        .output()
        .unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    std::fs::write(folder.path().join("policies/policy.yaml"), POLICY).unwrap();
    folder
}

fn findings(folder: &Path, more: &[&str]) -> Vec<Value> {
    let arguments = [&["doctor", "--format", "json"], more].concat();
    let output = tollgate(folder, &arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    let failed = findings.iter().any(|finding| finding["state"] == "failure");
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{findings:#?}");
    findings
}

fn of<'a>(findings: &'a [Value], area: &str, text: &str) -> &'a Value {
    let found = findings.iter().find(|finding| {
        finding["area"] == area && finding["what"].as_str().unwrap().contains(text)
    });
    found.unwrap_or_else(|| panic!("nothing of {area} says {text:?}: {findings:#?}"))
}

#[test]
fn without_an_authority_it_says_how_to_make_one() {
    let folder = folder();
    let found = findings(folder.path(), &["--without-clients"]);
    let finding = of(&found, "authority", "");
    assert_eq!(finding["state"], "failure");
    assert!(finding["mend"].as_str().unwrap().contains("tollgate ca init"), "{finding}");
    // Nobody listens either, and sandboxes that use a proxy of their own accord are not contained.
    assert_eq!(of(&found, "listeners", "127.0.0.1:3128")["state"], "failure");
    assert_eq!(of(&found, "rules", "transparent")["state"], "warning");
}

#[test]
fn a_mistake_in_the_configuration_is_a_finding() {
    let folder = folder();
    std::fs::write(folder.path().join("tollgate.yaml"), "listen: { explict: [] }").unwrap();
    let found = findings(folder.path(), &[]);
    assert!(
        of(&found, "configuration", "explict")["what"]
            .as_str()
            .unwrap()
            .contains("tollgate.yaml:1")
    );
}

#[test]
fn keys_that_others_can_read_are_found() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    assert!(tollgate(folder.path(), &["ca", "init"]).status.success());
    let key = folder.path().join("certs/seal.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let found = findings(folder.path(), &["--without-clients"]);
    let finding = of(&found, "authority", "seal.key");
    assert_eq!(finding["mend"], "chmod 600 certs/seal.key", "{finding}");
}

#[test]
fn each_client_is_really_tried() {
    let folder = folder();
    // `serve` writes the bundle; a run of anything does too.
    let ran = tollgate(folder.path(), &["run", "--", "true"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let found = findings(folder.path(), &[]);
    assert_eq!(of(&found, "clients", "curl")["state"], "fine");
    let has_wget = Command::new("wget").arg("--version").output().is_ok();
    if has_wget {
        let wget = of(&found, "clients", "wget");
        assert_eq!(wget["state"], "failure", "{wget}");
        assert!(wget["mend"].as_str().unwrap().contains("update-ca-certificates"), "{wget}");
    }
}
