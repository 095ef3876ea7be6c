//! Frames of log lines, taken apart by somebody who believes nothing: octet counts, every field, and every header of the
//! request they came in.

use std::collections::HashMap;

/// A log line as a drain has sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The facility and the severity.
    pub prival: u8,
    /// `app`, or `heroku` for what hsup itself says.
    pub source: String,
    /// The dyno.
    pub dyno: String,
    /// `part` where the line goes on in the next frame, else `-`.
    pub msgid: String,
    /// The line.
    pub message: Vec<u8>,
}

impl Frame {
    /// The line as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }
}

/// Takes the frame that bytes begin with; gives how many bytes it has. Nothing where the bytes end within it.
///
/// # Errors
/// What is wrong with it.
pub fn frame(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
    let Some(blank) = bytes.iter().take(7).position(|byte| *byte == b' ') else {
        return if bytes.len() < 7 { Ok(None) } else { Err(format!("no octet count: {}", shown())) };
    };
    let count = std::str::from_utf8(&bytes[..blank]).ok().and_then(|count| count.parse::<usize>().ok());
    let count = count.ok_or_else(|| format!("no octet count: {}", shown()))?;
    let Some(message) = bytes.get(blank + 1..blank + 1 + count) else { return Ok(None) };
    let wrong = |what: &str| format!("{what}: {}", shown());
    let mut fields = message.splitn(8, |byte| *byte == b' ');
    let mut field = || fields.next().and_then(|field| std::str::from_utf8(field).ok()).unwrap_or_default();
    let (head, time, host) = (field(), field(), field());
    let (source, dyno, msgid, data) = (field(), field(), field(), field());
    let prival = head.strip_prefix('<').and_then(|head| head.strip_suffix(">1")?.parse().ok());
    let prival = prival.ok_or_else(|| wrong("no priority and version"))?;
    let pattern = "dddd-dd-ddTdd:dd:dd.dddddd+dd:dd";
    let fits = |(got, wanted): (u8, u8)| if wanted == b'd' { got.is_ascii_digit() } else { got == wanted };
    if time.len() != pattern.len() || !time.bytes().zip(pattern.bytes()).all(fits) {
        return Err(wrong("the time is none"));
    }
    if host.is_empty() || !["app", "heroku"].contains(&source) || dyno.is_empty() || data != "-" {
        return Err(wrong("a field is wrong"));
    }
    if !["-", "part"].contains(&msgid) {
        return Err(wrong("the message id is wrong"));
    }
    let (source, dyno, msgid) = (source.to_owned(), dyno.to_owned(), msgid.to_owned());
    let message = fields.next().ok_or_else(|| wrong("no message"))?.to_vec();
    Ok(Some((Frame { prival, source, dyno, msgid, message }, blank + 1 + count)))
}

/// A request as it was read: its head in lower case, and its body.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Delivery {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Takes it apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn frames(&self) -> Result<Vec<Frame>, String> {
        if self.header("content-type") != "application/logplex-1" {
            return Err(format!("the content type is {:?}", self.header("content-type")));
        }
        let id = self.header("logplex-frame-id");
        if id.is_empty() || id != self.header("x-request-id") {
            return Err(format!("the ids are wrong: {:?}", self.headers));
        }
        let (mut rest, mut frames) = (self.body.as_slice(), Vec::new());
        while !rest.is_empty() {
            let (frame, length) = frame(rest)?.ok_or("a frame is longer than the body")?;
            frames.push(frame);
            rest = &rest[length..];
        }
        if self.header("logplex-msg-count") != frames.len().to_string() {
            return Err(format!(
                "{} frames, and a count of {:?}",
                frames.len(),
                self.header("logplex-msg-count")
            ));
        }
        Ok(frames)
    }
}
