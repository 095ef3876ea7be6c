//! Messages, written and read, as bytes.

use super::*;

#[test]
fn attributes_are_aligned_and_tell_their_own_length() {
    let message = Message::new(16, CREATE, &[7, 0, 0, 0])
        .text(3, "eth0")
        .nested(18, |inner| inner.with(1, &[9]).with(2, &1_u32.to_be_bytes()));
    let bytes = message.finish(5, ACKNOWLEDGE);
    let mut expected = Vec::new();
    expected.extend(52_u32.to_ne_bytes());
    expected.extend([16_u16, REQUEST | CREATE | ACKNOWLEDGE].map(u16::to_ne_bytes).concat());
    expected.extend([5_u32, 0].map(u32::to_ne_bytes).concat());
    expected.extend([7, 0, 0, 0]);
    expected.extend([9_u16, 3].map(u16::to_ne_bytes).concat());
    expected.extend(b"eth0\0\0\0\0");
    expected.extend([20_u16, 18 | 0x8000].map(u16::to_ne_bytes).concat());
    expected.extend([5_u16, 1].map(u16::to_ne_bytes).concat());
    expected.extend([9, 0, 0, 0]);
    expected.extend([8_u16, 2].map(u16::to_ne_bytes).concat());
    expected.extend([0, 0, 0, 1]);
    assert_eq!(bytes, expected);
    assert_eq!(attribute(&bytes[20..], 18).and_then(|inner| attribute(inner, 2)), Some(&[0, 0, 0, 1][..]));
    assert_eq!(attribute(&bytes[20..], 4), None);
}

/// An answer to the step of a sequence number.
fn answer(sequence: u32, errno: i32, said: &str) -> Vec<u8> {
    let message = Message::new(ERROR, CAPPED | WITH_ATTRIBUTES, &(-errno).to_ne_bytes()).header(&[0; HEADER]);
    message.text(ANSWER_TEXT, said).finish(sequence, 0)
}

fn outcome(datagrams: &[Vec<u8>]) -> Result<(), NetworkError> {
    let names =
        vec![("begin".into(), None), ("make it".into(), Some(Errno::EEXIST)), ("end it".into(), None)];
    let mut outcome = Outcome { names, last: 2, failed: None, done: false };
    datagrams.iter().for_each(|bytes| messages(bytes).for_each(|answer| outcome.take(&answer)));
    outcome.end()
}

#[test]
fn the_first_step_that_failed_is_named() {
    let error = outcome(&[answer(1, libc::EPERM, "No."), answer(2, libc::EINVAL, "")]).unwrap_err();
    assert_eq!(error.to_string(), "failed to make it (No.)");
    assert!(error.is(Errno::EPERM));
    let both = [answer(1, libc::EEXIST, "Again."), answer(2, 0, "")].concat();
    outcome(&[both]).unwrap();
    let error = outcome(&[answer(0, libc::EPERM, "")]).unwrap_err();
    assert_eq!(error.to_string(), "failed to begin");
}

#[test]
fn no_answer_is_an_error() {
    for datagrams in [&[][..], &[answer(1, 0, "")], &[vec![1; 7]], &[answer(9, 0, "")]] {
        assert_eq!(
            outcome(datagrams).unwrap_err().to_string(),
            "failed to end it: the kernel gave no answer"
        );
    }
}
