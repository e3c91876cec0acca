//! Sealed tokens become values: in which headers, for which hosts, and what happens to those that may not.

use crate::support::{Tollgate, Upstream};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com]
    secrets:
      KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

#[tokio::test]
async fn a_bearer_token_becomes_the_value() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let bearer = format!("Bearer {}", sandbox.token("KEY"));
    let answer = sandbox.get_with("https://api.example.com/v1", "authorization", &bearer).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
    let expected = format!("Bearer {}", tollgate.value("KEY"));
    assert_eq!(upstream.request().header("authorization").unwrap(), expected);
    tollgate.finish().await;
}
