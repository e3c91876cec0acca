//! What is carried: names, families, ports, and the story of a denial.

use serde_json::json;

use super::rig::{API, OTHER};
use super::{Rig, STORES, Way};
use crate::support::Upstream;

/// A's request carries the value, over both families, and the answer is scrubbed.
async fn a_request_arrives_with_the_real_value(way: Way) {
    let rig = Rig::with(way, STORES, json!({})).await;
    let api = rig.api().await;
    let token = rig.token("sb-a");
    let header = format!("Authorization: Bearer {token}");
    for (family, version) in [("-4", "--http1.1"), ("-6", "--http2")] {
        let arguments = [family, version, "-H", &header, "https://api.example.com/v1"];
        let said = rig.curl("sb-a", &arguments).await;
        assert!(said.fine, "{family}: {said:?}");
        assert!(said.out.contains(&token) && !said.out.contains(&rig.value), "{family}: {said:?}");
        let request = api.requests().pop().unwrap();
        assert_eq!(request.header("authorization").unwrap(), format!("Bearer {}", rig.value));
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_with_the_real_value_by_redirect() {
    if Rig::possible() {
        a_request_arrives_with_the_real_value(Way::Redirect).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_with_the_real_value_by_tproxy() {
    if Rig::possible() {
        a_request_arrives_with_the_real_value(Way::Tproxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sandboxes_have_different_policies_for_one_host() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    let api = rig.api().await;
    let other = Upstream::https("other.example.com").at(rig.listen(OTHER[0], 443)).await;
    let status = ["-o", "/dev/null", "-w", "%{http_code} %header{x-deny-reason}"];
    for (id, url, expected) in [
        ("sb-a", "https://api.example.com/", "200 "),
        ("sb-a", "https://other.example.com/", "403 host_not_allowed"),
        ("sb-b", "https://api.example.com/", "403 host_not_allowed"),
        ("sb-b", "https://other.example.com/", "200 "),
    ] {
        let said = rig.curl(id, &[&status[..], &[url]].concat()).await;
        assert_eq!(said.out, expected, "{id} {url}: {said:?}");
    }
    assert_eq!((api.requests().len(), other.requests().len()), (1, 1));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_told_inside_tls_and_in_plain_http() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    for (family, scheme) in [("-4", "https"), ("-6", "https"), ("-4", "http"), ("-6", "http")] {
        let said = rig.curl("sb-a", &[family, &format!("{scheme}://evil.example.net/x")]).await;
        assert!(said.fine, "{said:?}");
        let problem: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(
            (&problem["status"], &problem["reason"], &problem["host"], &problem["sandboxID"]),
            (&json!(403), &json!("host_not_allowed"), &json!("evil.example.net"), &json!("sb-a")),
            "{problem}"
        );
    }
    // Nobody asked for a name that nobody may reach.
    assert_eq!(rig.dns.questions(), Vec::<String>::new());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_port_is_the_one_that_the_client_chose() {
    if !Rig::possible() {
        return;
    }
    for way in [Way::Redirect, Way::Tproxy] {
        let rig = Rig::with(way, STORES, json!({})).await;
        let odd = Upstream::https("api.example.com").at(rig.listen(API[0], 8443)).await;
        let said = rig.curl("sb-a", &["https://api.example.com:8443/odd"]).await;
        assert!(said.fine, "{way:?}: {said:?}");
        assert_eq!(odd.request().target, "/odd");
        let refused =
            ["-o", "/dev/null", "-w", "%header{x-deny-reason}", "https://api.example.com:9443/"];
        assert_eq!(rig.curl("sb-a", &refused).await.out, "port_not_allowed", "{way:?}");
        rig.finish().await;
    }
}
