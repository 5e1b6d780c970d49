//! SPDY/3.1 frames, as far as Kubernetes' streams use them: bytes in, frames out, and back. Pure.
//!
//! Kubelets and container runtimes speak it for exec, attach and port-forward. There is no flow control (nobody in that
//! world does any), and header blocks of the other side are passed over: nothing that answers us says anything in them.
//! Source: the SPDY/3.1 draft, sections 2.2 and 2.6.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before every frame's content.
const HEADER_LEN: usize = 8;
/// Larger control frames are refused; real ones have a few hundred bytes.
const CONTROL_LEN_MAX: usize = 1 << 16;
/// Content of one data frame we write; frames may have 24 bits of length.
const DATA_LEN_MAX: usize = 1 << 20;
/// A stored deflate block has 16 bits of length.
const STORED_LEN_MAX: usize = 0xFFFF;

const CONTROL: u16 = 0x8000;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// A frame of the other side, or a part of one: content is handed on as it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The other side opens a stream.
    SynStream { stream: u32, fin: bool },
    /// It has taken ours.
    SynReply { stream: u32, fin: bool },
    /// It breaks one off.
    Reset { stream: u32, status: u32 },
    /// To be sent back as it is, where it is not the answer to our own.
    Ping { id: u32 },
    /// It takes no more streams.
    GoAway,
    /// Settings, headers and window updates, which mean nothing here.
    Other,
    /// Content of a stream; `fin` with the last.
    Data { stream: u32, fin: bool, content: Bytes },
}

/// The other side does not speak SPDY/3.1; the connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    #[error("spdy: version {0} is not supported")]
    Version(u16),
    #[error("spdy: a control frame of type {kind} with {len} bytes")]
    Length { kind: u16, len: usize },
    #[error("spdy: unknown control frame {0}")]
    Unknown(u16),
}

/// The rest of a data frame whose content is still coming.
#[derive(Clone, Copy, Debug)]
struct Open {
    stream: u32,
    fin: bool,
    left: usize,
}

/// Takes frames off a stream of bytes; holds one control frame at most.
#[derive(Debug, Default)]
pub struct Reader {
    waiting: BytesMut,
    open: Option<Open>,
}

impl Reader {
    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next frame or part of one; `None` until more has come.
    ///
    /// # Errors
    /// What came is not SPDY/3.1. Every later call gives the same error.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some(open) = self.open {
            return Ok(self.content(open));
        }
        let Some(header) = self.waiting.get(..HEADER_LEN) else { return Ok(None) };
        let mut header = header;
        let (first, second, rest) = (header.get_u16(), header.get_u16(), header.get_u32());
        let (flags, len) = ((rest >> 24) as u8, (rest & 0xFF_FFFF) as usize);
        if first & CONTROL != 0 {
            return self.control(first & !CONTROL, second, flags, len);
        }
        let stream = u32::from(first) << 16 | u32::from(second);
        self.waiting.advance(HEADER_LEN);
        let open = Open { stream, fin: flags & FLAG_FIN != 0, left: len };
        self.open = Some(open);
        Ok(self.content(open))
    }

    fn content(&mut self, open: Open) -> Option<Frame> {
        let len = open.left.min(self.waiting.len());
        if len == 0 && open.left > 0 {
            return None;
        }
        let content = self.waiting.split_to(len).freeze();
        let left = open.left - len;
        self.open = (left > 0).then_some(Open { left, ..open });
        Some(Frame::Data { stream: open.stream, fin: open.fin && left == 0, content })
    }

    fn control(
        &mut self,
        version: u16,
        kind: u16,
        flags: u8,
        len: usize,
    ) -> Result<Option<Frame>, SpdyError> {
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        let shortest = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | SETTINGS | PING | HEADERS => 4,
            RST_STREAM | GO_AWAY | WINDOW_UPDATE => 8,
            _ => return Err(SpdyError::Unknown(kind)),
        };
        if len < shortest || len > CONTROL_LEN_MAX {
            return Err(SpdyError::Length { kind, len });
        }
        if self.waiting.len() < HEADER_LEN + len {
            return Ok(None);
        }
        let mut content = self.waiting.split_to(HEADER_LEN + len);
        content.advance(HEADER_LEN);
        let (number, fin) = (content.get_u32(), flags & FLAG_FIN != 0);
        Ok(Some(match kind {
            SYN_STREAM => Frame::SynStream { stream: number, fin },
            SYN_REPLY => Frame::SynReply { stream: number, fin },
            RST_STREAM => Frame::Reset { stream: number, status: content.get_u32() },
            PING => Frame::Ping { id: number },
            GO_AWAY => Frame::GoAway,
            _ => Frame::Other,
        }))
    }
}

/// Makes frames. Header blocks of one connection are one zlib stream, so they come from one writer, in order.
#[derive(Debug, Default)]
pub struct Writer {
    begun: bool,
}

fn control(kind: u16, flags: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + content.len());
    frame.put_u16(CONTROL | VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::from(flags) << 24 | u32::try_from(content.len()).unwrap_or(0xFF_FFFF));
    frame.put_slice(content);
    frame
}

impl Writer {
    /// Opens a stream; ours have odd numbers, in rising order. Header names are lower case.
    pub fn syn_stream(&mut self, stream: u32, headers: &[(&str, &str)], fin: bool) -> Vec<u8> {
        let mut content = Vec::new();
        content.put_u32(stream);
        // No associated stream, the highest priority, no slot.
        content.put_u32(0);
        content.put_u16(0);
        content.extend(self.block(headers));
        control(SYN_STREAM, if fin { FLAG_FIN } else { 0 }, &content)
    }

    /// Takes a stream of the other side.
    pub fn syn_reply(&mut self, stream: u32, fin: bool) -> Vec<u8> {
        let mut content = Vec::new();
        content.put_u32(stream);
        content.extend(self.block(&[]));
        control(SYN_REPLY, if fin { FLAG_FIN } else { 0 }, &content)
    }

    /// A header block. It is stored and not packed: a decompressor takes it as well, and needs no dictionary for it.
    fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut plain = Vec::new();
        plain.put_u32(number(headers.len()));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(number(text.len()));
            plain.put_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 16);
        if !std::mem::replace(&mut self.begun, true) {
            packed.put_slice(&[0x78, 0x01]);
        }
        // The empty piece at the end is a flush: Go's reader hands nothing out before it has seen one.
        for piece in plain.chunks(STORED_LEN_MAX).chain([&[][..]]) {
            let len = piece.len() as u16;
            packed.put_u8(0);
            packed.put_u16_le(len);
            packed.put_u16_le(!len);
            packed.put_slice(piece);
        }
        packed
    }

    /// Content of a stream, in as many frames as it needs; `fin` says that it was the last.
    pub fn data(stream: u32, content: &[u8], fin: bool) -> Vec<u8> {
        let mut frames = Vec::with_capacity(content.len() + HEADER_LEN);
        let mut pieces = content.chunks(DATA_LEN_MAX).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let last = pieces.peek().is_none();
            let flags = if fin && last { u32::from(FLAG_FIN) << 24 } else { 0 };
            frames.put_u32(stream & !(u32::from(CONTROL) << 16));
            frames.put_u32(flags | piece.len() as u32);
            frames.put_slice(piece);
            if last {
                return frames;
            }
        }
    }

    /// A ping, or the answer to one.
    pub fn ping(id: u32) -> Vec<u8> {
        control(PING, 0, &id.to_be_bytes())
    }

    /// Breaks a stream off.
    pub fn reset(stream: u32, status: u32) -> Vec<u8> {
        control(RST_STREAM, 0, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
    }

    /// No more streams after this one of the other side's.
    pub fn go_away(last: u32) -> Vec<u8> {
        control(GO_AWAY, 0, &[last.to_be_bytes(), [0; 4]].concat())
    }

    /// How much more of a stream is welcome.
    pub fn window_update(stream: u32, delta: u32) -> Vec<u8> {
        control(WINDOW_UPDATE, 0, &[stream.to_be_bytes(), delta.to_be_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let (mut reader, mut found) = (Reader::default(), Vec::new());
        reader.push(bytes);
        while let Some(frame) = reader.next_frame()? {
            found.push(frame);
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        let mut bytes = writer.syn_stream(1, &[("streamtype", "error")], false);
        bytes.extend(writer.syn_reply(2, true));
        bytes.extend(Writer::data(1, b"abc", true));
        bytes.extend(Writer::data(3, b"", true));
        bytes.extend(
            [Writer::ping(7), Writer::reset(1, 5), Writer::go_away(0), Writer::window_update(1, 2)].concat(),
        );
        let data =
            |stream, content: &'static [u8]| Frame::Data { stream, fin: true, content: content.into() };
        let expected = vec![
            Frame::SynStream { stream: 1, fin: false },
            Frame::SynReply { stream: 2, fin: true },
            data(1, b"abc"),
            data(3, b""),
            Frame::Ping { id: 7 },
            Frame::Reset { stream: 1, status: 5 },
            Frame::GoAway,
            Frame::Other,
        ];
        assert_eq!(frames(&bytes), Ok(expected));
    }

    #[test]
    fn header_blocks_are_one_flushed_stream() {
        let mut writer = Writer::default();
        let first = writer.block(&[("a", "b")]);
        let plain = [0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b'];
        let flush = [0, 0, 0, 0xff, 0xff];
        assert_eq!(first, [&[0x78, 1, 0, 14, 0, 0xf1, 0xff][..], &plain, &flush].concat());
        assert_eq!(writer.block(&[]), [&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0][..], &flush].concat());
    }

    #[test]
    fn content_comes_in_parts() {
        let mut reader = Reader::default();
        let bytes = Writer::data(1, b"abc", true);
        reader.push(&bytes[..10]);
        let part =
            |content: &'static [u8], fin| Ok(Some(Frame::Data { stream: 1, fin, content: content.into() }));
        assert_eq!(reader.next_frame(), part(b"ab", false));
        assert_eq!(reader.next_frame(), Ok(None));
        reader.push(&bytes[10..]);
        assert_eq!(reader.next_frame(), part(b"c", true));
    }

    #[test]
    fn large_content_is_several_frames_and_ends_once() {
        let bytes = Writer::data(1, &vec![7; DATA_LEN_MAX + 1], true);
        let ends: Vec<bool> = frames(&bytes)
            .expect("frames")
            .iter()
            .map(|f| matches!(f, Frame::Data { fin: true, .. }))
            .collect();
        assert_eq!(ends, [false, true]);
    }

    #[test]
    fn strangers_are_refused() {
        let check = |bytes: &[u8], expected| assert_eq!(frames(bytes), Err(expected));
        check(&[0x80, 2, 0, 1, 0, 0, 0, 10], SpdyError::Version(2));
        check(&[0x80, 3, 0, 5, 0, 0, 0, 10], SpdyError::Unknown(5));
        check(&[0x80, 3, 0, 1, 0, 0, 0, 4], SpdyError::Length { kind: 1, len: 4 });
        check(&[0x80, 3, 0, 1, 0, 0xff, 0, 0], SpdyError::Length { kind: 1, len: 0xff_0000 });
    }
}
