//! Lines out of a stream of bytes. Knows no pipes and no sinks.

/// The longest line that is kept whole, in bytes; a longer one goes on as further lines. Without a bound one
/// dyno that never prints a newline would fill the memory.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Cuts a stream into lines. Holds no memory between lines.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes of the stream and gives each line that is complete with them, without its newline.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = bytes.split_at(end);
            self.extend(head, &mut line);
            if self.partial.is_empty() {
                line(b"");
            } else {
                self.finish(&mut line);
            }
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes, &mut line);
    }

    /// Gives what the stream ended with after its last newline.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial = Vec::new();
        }
    }

    fn extend(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            if self.partial.len() == MAX_LINE_BYTES {
                line(&self.partial);
                self.partial.clear();
            }
            let room = MAX_LINE_BYTES - self.partial.len();
            let (head, rest) = bytes.split_at(room.min(bytes.len()));
            self.partial.extend_from_slice(head);
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut cutter, mut out) = (Lines::default(), Vec::new());
        for piece in pieces {
            cutter.push(piece, |line| out.push(line.to_vec()));
        }
        cutter.finish(|line| out.push(line.to_vec()));
        out
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_come() {
        let expected: Vec<Vec<u8>> = vec![b"one".into(), b"".into(), b"tw\xffo".into(), b"end".into()];
        let text = b"one\n\ntw\xffo\nend";
        assert_eq!(lines(&[text]), expected);
        assert_eq!(lines(&text.chunks(1).collect::<Vec<_>>()), expected);
        assert!(lines(&[b""]).is_empty());
    }

    #[test]
    fn a_line_over_the_limit_is_split_and_nothing_is_lost() {
        let long = vec![b'x'; 2 * MAX_LINE_BYTES + 1];
        let lengths = |bytes: &[u8]| lines(&[bytes]).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&long), [MAX_LINE_BYTES, MAX_LINE_BYTES, 1]);
        let exact = [&long[..MAX_LINE_BYTES], b"\nnext\n"].concat();
        assert_eq!(lengths(&exact), [MAX_LINE_BYTES, 4]);
    }
}
