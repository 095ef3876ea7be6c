//! Lines out of a stream of bytes. Knows no pipes and no sinks.

use memchr::memrchr;

/// The longest line that is kept whole, in bytes; a longer one goes on as further pieces, each of which says so.
/// Heroku's logs have the same limit, and receivers of drains count on it. Without a bound a dyno that never prints
/// a newline would fill the memory.
pub const MAX_LINE_BYTES: usize = 10_000;

/// Cuts a stream into runs of lines. Holds no memory between lines.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes of the stream and gives the lines that are complete with them, with their newlines, in as
    /// few runs as can be. A run that does not end with a newline ends with a piece of a line that is too long.
    ///
    /// It looks only for the last newline in each [`MAX_LINE_BYTES`]: all lines before that one are short enough.
    pub fn push(&mut self, bytes: &[u8], mut run: impl FnMut(Vec<u8>)) {
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let (mut start, mut line) = (0, 0);
        loop {
            let rest = &all[line..];
            let window = &rest[..rest.len().min(MAX_LINE_BYTES + 1)];
            match memrchr(b'\n', window) {
                Some(end) => line += end + 1,
                None if rest.len() <= MAX_LINE_BYTES => break,
                None => {
                    line += MAX_LINE_BYTES;
                    run(all[start..line].to_vec());
                    start = line;
                }
            }
        }
        self.partial = all[line..].to_vec();
        if start < line {
            all.truncate(line);
            all.drain(..start);
            run(all);
        }
    }

    /// Gives what the stream ended with after its last newline, as a line.
    pub fn finish(&mut self, mut run: impl FnMut(Vec<u8>)) {
        if !self.partial.is_empty() {
            self.partial.push(b'\n');
            run(std::mem::take(&mut self.partial));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut cutter, mut out) = (Lines::default(), Vec::new());
        for piece in pieces {
            cutter.push(piece, |run| out.push(run));
        }
        cutter.finish(|run| out.push(run));
        out
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_come() {
        let text = b"one\n\ntw\xffo\nend";
        assert_eq!(runs(&[text]), [b"one\n\ntw\xffo\n".to_vec(), b"end\n".to_vec()]);
        assert_eq!(runs(&text.chunks(1).collect::<Vec<_>>()).concat(), b"one\n\ntw\xffo\nend\n");
        assert!(runs(&[b""]).is_empty());
    }

    #[test]
    fn a_line_over_the_limit_is_cut_and_nothing_is_lost() {
        let long = vec![b'x'; 2 * MAX_LINE_BYTES + 1];
        let lengths = |bytes: &[u8]| runs(&[bytes]).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&long), [MAX_LINE_BYTES, MAX_LINE_BYTES, 2]);
        let exact = [&long[..MAX_LINE_BYTES], b"\nnext\n"].concat();
        assert_eq!(lengths(&exact), [MAX_LINE_BYTES + 6]);
        let behind_others = [b"a\nb\n", &long[..MAX_LINE_BYTES + 1], b"\nc\n"].concat();
        assert_eq!(lengths(&behind_others), [4 + MAX_LINE_BYTES, 4]);
    }

    proptest! {
        /// Without the newline that the end may have added, what comes out is what came in; only what is cut lacks a
        /// newline, at the limit exactly; and it does not matter how the bytes came.
        #[test]
        fn nothing_is_lost_and_only_long_lines_are_cut(
            lengths in prop::collection::vec(0..3 * MAX_LINE_BYTES, 0..6), step in 1..50_000_usize,
        ) {
            let mut text = Vec::new();
            for length in &lengths {
                text.extend(std::iter::repeat_n(b'x', *length));
                text.push(b'\n');
            }
            text.extend(b"end");
            let out = runs(&text.chunks(step).collect::<Vec<_>>());
            let (mut all, mut cuts) = (Vec::new(), 0);
            for run in &out {
                all.extend_from_slice(run);
                if run.last() != Some(&b'\n') {
                    cuts += 1;
                    let tail = run.iter().rev().take_while(|byte| **byte != b'\n').count();
                    prop_assert_eq!(tail, MAX_LINE_BYTES);
                }
            }
            text.push(b'\n');
            prop_assert!(all == text);
            let expected: usize = lengths.iter().map(|length| length.saturating_sub(1) / MAX_LINE_BYTES).sum();
            prop_assert_eq!(cuts, expected);
        }
    }
}
