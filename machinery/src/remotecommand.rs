//! The v5 remote command protocol over WebSocket, and the SPDY streams behind it: which byte goes where. Pure.
//!
//! A client's binary message begins with its channel: 0 standard input, 4 terminal sizes, 255 the end of the channel
//! named next. Towards the client: 1 output, 2 error output, 3 the result. On the other side each is a SPDY stream
//! named by the header `streamtype`. Source: upstream `remotecommand` constants, protocols v4 and v5.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::spdy::{Frame, Writer};
use crate::status::StatusError;

/// WebSocket's protocol with an end of its own for every channel: `cat file | kubectl exec -i` ends by it.
pub const V5: &str = "v5.channel.k8s.io";
/// What SPDY speaks: v5 only adds to WebSocket what SPDY has.
pub const V4: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESULT: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A result is one Status; more is not collected.
const RESULT_LEN_MAX: usize = 1 << 20;

/// What the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    /// Error output; none of its own with a terminal.
    pub stderr: bool,
    /// A terminal, whose size may change.
    pub tty: bool,
}

/// One open channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channel {
    channel: u8,
    stream: u32,
}

/// What goes to the client because of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outward {
    /// A message.
    Message(Bytes),
    /// A frame back to the side that runs the command.
    Frame(Vec<u8>),
    Nothing,
}

/// The channels of one command.
#[derive(Debug)]
pub struct Channels {
    wanted: Wanted,
    open: Vec<Channel>,
    /// Output streams and the result that have not ended.
    awaited: Vec<u32>,
    result: BytesMut,
}

fn message(channel: u8, content: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(content.len() + 1);
    message.put_u8(channel);
    message.put_slice(content);
    message.freeze()
}

impl Channels {
    /// The channels, and the frames that open their streams: the result's first, as every client does it.
    pub fn open(wanted: Wanted) -> (Self, Vec<u8>) {
        let streams = [
            (RESULT, "error", true),
            (STDIN, "stdin", wanted.stdin),
            (STDOUT, "stdout", wanted.stdout),
            (STDERR, "stderr", wanted.stderr && !wanted.tty),
            (RESIZE, "resize", wanted.tty),
        ];
        let (mut writer, mut frames, mut open) = (Writer::default(), Vec::new(), Vec::new());
        for (channel, name, _) in streams.into_iter().filter(|(.., wanted)| *wanted) {
            // A client's streams have odd numbers.
            let stream = 2 * open.len() as u32 + 1;
            frames.extend(writer.syn_stream(stream, &[("streamtype", name)], false));
            open.push(Channel { channel, stream });
        }
        let ends = |c: &&Channel| matches!(c.channel, RESULT | STDOUT | STDERR);
        let awaited = open.iter().filter(ends).map(|c| c.stream).collect();
        (Self { wanted, open, awaited, result: BytesMut::new() }, frames)
    }

    /// The empty message that tells the client that the connection stands.
    pub fn greeting(&self) -> Bytes {
        let channel = match self.wanted {
            Wanted { stdout: true, .. } => STDOUT,
            Wanted { stderr: true, .. } => STDERR,
            _ => RESULT,
        };
        message(channel, &[])
    }

    fn stream(&self, channel: u8) -> Option<u32> {
        self.open.iter().find(|c| c.channel == channel).map(|c| c.stream)
    }

    /// What the command's side gets for a client's message; nothing for channels that are not open to the client.
    pub fn inward(&self, message: &[u8]) -> Vec<u8> {
        let frame = match message {
            [CLOSE, channel @ (STDIN | RESIZE), ..] => {
                self.stream(*channel).map(|s| Writer::data(s, &[], true))
            }
            [channel @ (STDIN | RESIZE), content @ ..] if !content.is_empty() => {
                self.stream(*channel).map(|s| Writer::data(s, content, false))
            }
            _ => None,
        };
        frame.unwrap_or_default()
    }

    /// What follows from a frame of the command's side.
    pub fn outward(&mut self, frame: Frame) -> Outward {
        match frame {
            Frame::Data { stream, fin, content } => {
                if fin {
                    self.awaited.retain(|s| *s != stream);
                }
                match self.open.iter().find(|c| c.stream == stream).map(|c| c.channel) {
                    Some(RESULT) => {
                        let room = RESULT_LEN_MAX.saturating_sub(self.result.len());
                        self.result.put_slice(&content[..content.len().min(room)]);
                        Outward::Nothing
                    }
                    Some(channel @ (STDOUT | STDERR)) if !content.is_empty() => {
                        Outward::Message(message(channel, &content))
                    }
                    _ => Outward::Nothing,
                }
            }
            Frame::SynReply { stream, fin: true } | Frame::Reset { stream, .. } => {
                self.awaited.retain(|s| *s != stream);
                Outward::Nothing
            }
            // Only the client's side opens streams.
            Frame::SynStream { stream, .. } => Outward::Frame(Writer::reset(stream, 3)),
            Frame::Ping { id } if id % 2 == 0 => Outward::Frame(Writer::ping(id)),
            _ => Outward::Nothing,
        }
    }

    /// Every output and the result have ended.
    pub fn is_done(&self) -> bool {
        self.awaited.is_empty()
    }

    /// The last message: how the command ended, or that its side broke off.
    pub fn result(&self) -> Bytes {
        let told: Option<Value> = serde_json::from_slice(&self.result).ok().filter(Value::is_object);
        match told {
            Some(status) => message(RESULT, status.to_string().as_bytes()),
            None if self.is_done() && self.result.is_empty() => {
                message(RESULT, json!({"metadata": {}, "status": "Success"}).to_string().as_bytes())
            }
            None => failed("error stream protocol error: unknown error"),
        }
    }
}

/// The last message where the command did not run, or nobody knows how it ended.
pub fn failed(why: &str) -> Bytes {
    let mut status = StatusError::internal(why).to_value();
    if let Some(status) = status.as_object_mut() {
        // Upstream sends the bare Status here, without its kind.
        status.remove("kind");
        status.remove("apiVersion");
    }
    message(RESULT, status.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

    fn data(stream: u32, content: &'static str, fin: bool) -> Frame {
        Frame::Data { stream, fin, content: Bytes::from_static(content.as_bytes()) }
    }

    #[test]
    fn streams_are_those_asked_for() {
        let streams = |wanted| {
            let (channels, _) = Channels::open(wanted);
            channels.open.iter().map(|c| (c.channel, c.stream)).collect::<Vec<_>>()
        };
        assert_eq!(streams(ALL), [(RESULT, 1), (STDIN, 3), (STDOUT, 5), (STDERR, 7)]);
        assert_eq!(streams(Wanted { tty: true, ..ALL }), [(RESULT, 1), (STDIN, 3), (STDOUT, 5), (RESIZE, 7)]);
        assert_eq!(streams(Wanted::default()), [(RESULT, 1)]);
        assert_eq!(Channels::open(Wanted::default()).0.greeting(), message(RESULT, b""));
    }

    #[test]
    fn messages_become_frames() {
        let (channels, _) = Channels::open(ALL);
        let check = |message: &[u8], expected: Vec<u8>| assert_eq!(channels.inward(message), expected);
        check(&[STDIN, b'a'], Writer::data(3, b"a", false));
        check(&[CLOSE, STDIN], Writer::data(3, b"", true));
        check(&[RESIZE, b'{'], Vec::new());
        check(&[STDOUT, b'a'], Vec::new());
        check(&[STDIN], Vec::new());
        check(&[CLOSE], Vec::new());
        check(&[], Vec::new());
    }

    #[test]
    fn frames_become_messages_and_the_result_comes_last() {
        let (mut channels, _) = Channels::open(ALL);
        assert_eq!(channels.outward(data(5, "out", false)), Outward::Message(message(STDOUT, b"out")));
        assert_eq!(channels.outward(data(7, "err", true)), Outward::Message(message(STDERR, b"err")));
        assert_eq!(channels.outward(data(1, r#"{"status":"Fail"#, false)), Outward::Nothing);
        assert_eq!(channels.outward(data(1, r#"ure"}"#, true)), Outward::Nothing);
        assert!(!channels.is_done());
        assert_eq!(channels.outward(Frame::Ping { id: 2 }), Outward::Frame(Writer::ping(2)));
        assert_eq!(channels.outward(data(5, "", true)), Outward::Nothing);
        assert!(channels.is_done());
        assert_eq!(channels.result(), message(RESULT, br#"{"status":"Failure"}"#));
    }

    #[test]
    fn ends_without_a_word() {
        let (mut channels, _) = Channels::open(Wanted::default());
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes[1..]).into_owned();
        assert!(text(channels.result()).contains(r#""code":500"#));
        channels.outward(data(1, "", true));
        assert_eq!(text(channels.result()), r#"{"metadata":{},"status":"Success"}"#);
    }
}
