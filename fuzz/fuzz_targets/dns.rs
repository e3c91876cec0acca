//! Any bytes as a DNS message: no panic, and an answer that repeats the question and is hardly longer than it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::dns::{Answer, Question};

fuzz_target!(|data: &[u8]| {
    let answers = [
        Answer::Sink([198, 18, 0, 1].into()),
        Answer::Sink(std::net::IpAddr::from([0x20; 16])),
        Answer::SinkName,
        Answer::NoData,
        Answer::Refused(None),
    ];
    match Question::read(data) {
        Ok(question) => {
            let end = 12 + name_length(&data[12..]) + 4;
            for answer in answers {
                let written = answer.write(&question).expect("a question that was read is answered");
                assert_eq!((&written[..2], &written[12..end]), (&data[..2], &data[12..end]));
                assert!(written.len() <= data.len() + 64 && written.len() <= 512);
                // An answer is never taken for a question.
                assert!(Question::read(&written).is_err_and(|fault| fault.write().is_none()));
            }
        }
        Err(fault) => {
            if let Some(written) = fault.write() {
                assert_eq!(written[..2], data[..2]);
                assert!(written.len() <= data.len() + 11);
            }
        }
    }
});

/// Of a name without pointers, with its root.
fn name_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes[at] != 0 {
        at += usize::from(bytes[at]) + 1;
    }
    at + 1
}
