//! Every form is found, and what is found is what a search of no cleverness finds.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use proptest::prelude::*;

use super::*;
use crate::secret::SealKey;

fn needles(value: &str) -> (Needles, String) {
    let token = token("KEY");
    (Needles::new(&[(token.clone(), secret(value))]), token.as_str().to_owned())
}

fn token(name: &str) -> SealedToken {
    SealKey::new(&[1; 32]).seal(&"sb".parse().unwrap(), 0, &name.parse().unwrap())
}

fn secret(value: &str) -> Arc<SecretValue> {
    Arc::new(SecretValue::new(value.as_bytes().to_vec()).unwrap())
}

fn lowered(escaped: &str) -> String {
    let lower = |part: &str| {
        let (digits, rest) = part.split_at(2);
        format!("%{}{rest}", digits.to_ascii_lowercase())
    };
    let (first, parts) = escaped.split_once('%').unwrap();
    first.to_owned() + &parts.split('%').map(lower).collect::<String>()
}

fn hidden(needles: &Needles, text: &str, hide: Hide) -> String {
    let mut out = Vec::new();
    needles.hide(text.as_bytes(), text.len(), hide, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_value_is_hidden_in_every_form() {
    let value = "s3cr3t/\"Value+with&odd<chars>='x";
    let (needles, token) = needles(value);
    assert_eq!(hidden(&needles, &format!("a {value} b"), Hide::Replace), format!("a {token} b"));
    assert_eq!(
        hidden(&needles, &format!("a {value} b"), Hide::Mask),
        format!("a {} b", "*".repeat(value.len()))
    );
    let mut echoes = vec![
        percent_encode(value.as_bytes(), NON_ALPHANUMERIC).to_string(),
        lowered(&percent_encode(value.as_bytes(), NON_ALPHANUMERIC).to_string()),
        serde_json::to_string(value).unwrap(),
        value.bytes().map(|b| format!("{b:02X}")).collect(),
        "s3cr3t/&#34;Value+with&amp;odd&lt;chars&gt;=&#39;x".to_owned(),
    ];
    for before in ["", "x", "xy", "xyz"] {
        for after in ["", "x", "xy", "xyz"] {
            echoes.push(STANDARD.encode(format!("{before}{value}{after}")));
            echoes.push(URL_SAFE.encode(format!("{before}{value}{after}")));
        }
    }
    for echo in echoes {
        assert!(needles.is_in(echo.as_bytes()), "{echo}");
        assert_ne!(hidden(&needles, &echo, Hide::Replace), echo);
        assert_eq!(hidden(&needles, &echo, Hide::Mask).len(), echo.len());
    }
}

#[test]
fn a_value_in_a_name_is_found_in_lower_case_and_redacted_in_any() {
    let value = "Sk-LIVE_0123abcDEF";
    let (needles, token) = needles(value);
    let host = format!("a.{}.example.com", value.to_ascii_lowercase());
    let found: Vec<_> = needles.tokens_of_name(&host).map(SealedToken::as_str).collect();
    assert_eq!(found, [token.as_str()]);
    assert_eq!(needles.tokens_of_name("a.sk-live_0123abcdex.example.com").count(), 0);
    for case in [value.to_owned(), value.to_ascii_lowercase(), value.to_ascii_uppercase()] {
        let text = format!("towards a.{case}.{case}.example.com:443, KEY");
        let expected = format!("towards a.{token}.{token}.example.com:443, KEY");
        assert_eq!(needles.redacted(&text), expected);
    }
    assert!(matches!(needles.redacted("Nothing In Here"), Cow::Borrowed(_)));
}

#[test]
fn what_is_held_back_depends_on_length_and_spaces_only() {
    let (needles, _) = needles("abcdefghijklmnop");
    assert_eq!(needles.undecided(b"data: hello\n\n"), 0);
    assert_eq!(needles.undecided(b"x abcdefgh"), needles.undecided(b"x zzzzzzzz"));
    assert!(needles.undecided(&[b'a'; 500]) < needles.longest());
}

#[test]
fn a_name_that_tires_the_skim_is_searched_all_the_same() {
    let value = "A".repeat(600);
    let (needles, _) = needles(&value);
    for (length, found) in [(599, false), (600, true)] {
        let name = format!("x{}", "a".repeat(length));
        assert_eq!(needles.tokens_of_name(&name).count() > 0, found);
        assert_eq!(needles.redacted(&name).as_ref() != name, found);
    }
    assert_eq!(needles.tokens_of_name(&format!("{}b", "a".repeat(599)).repeat(3)).count(), 0);
}

#[test]
fn json_escapes_of_every_encoder_are_found() {
    let (needles, _) = needles("k<e>y/&'+\"1234ü😀");
    for echo in [
        r#""k<e>y/&'+\"1234ü😀""#,
        r#""k<e>y\/&'+\"1234ü😀""#,
        r#""k\u003ce\u003ey/\u0026'+\"1234ü😀""#,
        r#""k<e>y/&'+\"1234\u00fc\ud83d\ude00""#,
        r#""k\u003Ce\u003Ey/\u0026\u0027\u002B\u00221234\u00FC\uD83D\uDE00""#,
    ] {
        let decoded: String = serde_json::from_str(echo).unwrap();
        assert_eq!(decoded, "k<e>y/&'+\"1234ü😀");
        assert!(needles.is_in(echo.as_bytes()), "{echo}");
    }
}

#[test]
fn a_secret_that_begins_like_another_leaves_no_tail() {
    let (short, long) = ("abcdefghijkl", "abcdefghijklmnopqrst");
    let needles = Needles::new(&[(token("SHORT"), secret(short)), (token("LONG"), secret(long))]);
    let text = hidden(&needles, &format!("{short} {long} {short}mnop"), Hide::Replace);
    let (short, long) = (token("SHORT"), token("LONG"));
    assert_eq!(text, format!("{} {} {}mnop", short.as_str(), long.as_str(), short.as_str()));
}

/// What a search would be that compares every needle with every place.
fn reference(values: &[String], text: &[u8], hide: Hide) -> Vec<u8> {
    let needles: Vec<_> = values
        .iter()
        .enumerate()
        .flat_map(|(nth, value)| {
            forms(value.as_bytes()).into_iter().map(move |(form, plain)| (form, plain, nth))
        })
        .collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let here = needles.iter().filter(|(needle, ..)| text[at..].starts_with(needle));
        // Of equal needles the first is meant.
        let Some((needle, plain, nth)) = here.rev().max_by_key(|(needle, ..)| needle.len()) else {
            out.push(text[at]);
            at += 1;
            continue;
        };
        match hide {
            Hide::Replace if *plain => {
                out.extend_from_slice(token(&format!("K{nth}")).as_str().as_bytes());
            }
            Hide::Replace | Hide::Mask => out.resize(out.len() + needle.len(), MASK),
        }
        at += needle.len();
    }
    out
}

fn needles_of(values: &[String]) -> Needles {
    let sealed = values.iter().enumerate();
    let sealed = sealed.map(|(nth, value)| (token(&format!("K{nth}")), secret(value)));
    Needles::new(&sealed.collect::<Vec<_>>())
}

/// Values that overlap each other and themselves, and a text of their forms, whole, cut short and in pieces.
fn values_and_text() -> impl Strategy<Value = (Vec<String>, Vec<u8>)> {
    let value = prop_oneof!["[ab]{12,20}", "(ab){6,9}c?", "[a-z0-9+/%\"]{12,40}", "[ -~]{12,16}"];
    let piece =
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_usize..6, 0_usize..6);
    let pieces = prop::collection::vec((piece, "[ab \n%=]{0,3}"), 1..8);
    (prop::collection::vec(value, 1..4), pieces).prop_map(|(values, pieces)| {
        let mut text = Vec::new();
        for ((value, form, front, back), filler) in pieces {
            let forms = forms(value.get(&values).as_bytes());
            let (form, _) = form.get(&forms);
            let end = form.len() - back.saturating_sub(3);
            text.extend_from_slice(&form[front.saturating_sub(3)..end]);
            text.extend_from_slice(filler.as_bytes());
        }
        (values, text)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_hidden_is_what_the_plain_search_hides((values, text) in values_and_text(), mask: bool) {
        let hide = if mask { Hide::Mask } else { Hide::Replace };
        let needles = needles_of(&values);
        let mut out = Vec::new();
        needles.hide(&text, text.len(), hide, &mut out);
        let expected = reference(&values, &text, hide);
        prop_assert_eq!(needles.is_in(&text), expected != text);
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_that_tire_the_skim_are_hidden_all_the_same(
        lengths in prop::collection::vec(300_usize..400, 1..3),
        runs in prop::collection::vec((1_usize..800, "[ab%=]{1,2}"), 1..5),
    ) {
        let values: Vec<String> = lengths.iter().map(|length| "a".repeat(*length)).collect();
        let text: String = runs.iter().map(|(run, between)| "a".repeat(*run) + between).collect();
        let needles = needles_of(&values);
        let mut out = Vec::new();
        needles.hide(text.as_bytes(), text.len(), Hide::Replace, &mut out);
        let expected = reference(&values, text.as_bytes(), Hide::Replace);
        prop_assert_eq!(needles.is_in(text.as_bytes()), expected != text.as_bytes());
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }
}
