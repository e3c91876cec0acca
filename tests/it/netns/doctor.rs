//! What `tollgate doctor` says of a gateway that is as it should be, and of one that is not.

use serde_json::{Value, json};

use super::{Rig, STORES, Way};

/// The findings of one area with their states, and whether the doctor was content.
fn examined(rig: &Rig, area: &str) -> (Vec<(String, Value)>, bool) {
    let mut doctor = rig.gateway.command(env!("CARGO_BIN_EXE_tollgate"));
    doctor.args(["doctor", "--config", "tollgate.yaml", "--without-clients", "--format", "json"]);
    let output = doctor.current_dir(rig.folder()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    let of_area = findings.iter().filter(|finding| finding["area"] == area);
    let short = |finding: &Value| (finding["state"].as_str().unwrap().to_owned(), finding.clone());
    (of_area.map(short).collect(), output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_the_shipped_rules_is_found_well() {
    if !Rig::possible() {
        return;
    }
    for way in [Way::Redirect, Way::Tproxy] {
        let rig = Rig::with(way, STORES, json!({})).await;
        for (area, at_least) in [
            ("policies", 1),
            ("authority", 1),
            ("clock", 1),
            ("names", 2),
            ("listeners", 1),
            ("rules", 4),
        ] {
            let (findings, content) = examined(&rig, area);
            assert!(content && findings.len() >= at_least, "{way:?} {area}: {findings:#?}");
            // Values in the policy itself are warned about.
            let expected = if area == "policies" { "warning" } else { "fine" };
            assert!(
                findings.iter().all(|(state, _)| state == expected),
                "{way:?} {area}: {findings:#?}"
            );
        }
        rig.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_found_with_what_mends_it() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Tproxy, STORES, json!({})).await;
    let failing = |area: &str| {
        let (findings, content) = examined(&rig, area);
        let failed = findings.into_iter().find(|(state, _)| state == "failure");
        assert!(!content, "the doctor is content");
        failed.unwrap_or_else(|| panic!("nothing fails in {area}")).1
    };
    let routes = format!("{}/deploy/nftables/tproxy-routes", env!("CARGO_MANIFEST_DIR"));
    rig.gateway.run(&routes, &["remove"]);
    assert!(failing("routes")["mend"].as_str().unwrap().contains("tproxy-routes"));
    rig.gateway.run(&routes, &[]);
    rig.gateway.run("nft", &["delete", "table", "inet", "tollgate"]);
    let finding = failing("rules");
    assert!(finding["what"].as_str().unwrap().contains("3131"), "{finding}");
    assert!(finding["mend"].as_str().unwrap().contains("tproxy.nft"), "{finding}");
    rig.internet.ip(&["addr", "del", "45.90.0.53/24", "dev", "eth0"]);
    assert!(failing("names")["mend"].as_str().unwrap().contains("upstream.resolver"));
    rig.finish().await;
}
