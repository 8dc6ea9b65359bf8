//! The messages of one connection, read from and written to its stream.
//!
//! `pgwire` decodes messages. On its own it would wait for as many bytes as a client claims, up to
//! a gigabyte, and would read past the end of one message into the next. So [`Wire`] checks the
//! length of a message before it waits for its bytes, and decodes the message from these bytes
//! alone. A panic while decoding is an error of the message.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::BytesMut;
use pgwire::messages::{
    DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion, SslNegotiationMetaMessage,
};
use tidegate_queries::statement_limits::SQL_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::SqlError;

/// The most bytes of a message before the client is authenticated.
const STARTUP_BYTES_MAX: usize = 10_000;

/// The most bytes of a message: those of the longest statement and of parameters.
const MESSAGE_BYTES_MAX: usize = 4 * SQL_BYTES_MAX;

/// How many bytes are read from the stream at once.
const READ_BYTES: usize = 16 << 10;

/// The size of a connection's output buffer from which on it is sent.
pub(crate) const SEND_BYTES: usize = 64 << 10;

/// The phase of a connection: which messages the client may send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Requests for encryption, the start-up message or a cancel request.
    Startup,
    /// The password.
    Authentication,
    /// Queries and the steps of prepared statements.
    Ready,
}

/// The stream of bytes of one connection, read and written as messages.
pub(crate) struct Wire<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
    pub(crate) phase: Phase,
    pub(crate) version: ProtocolVersion,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Wire<S> {
        Wire {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            phase: Phase::Startup,
            version: ProtocolVersion::PROTOCOL3_0,
        }
    }

    /// Reads the next message. Returns `None` when the client closed the connection.
    ///
    /// # Errors
    /// A fatal error when the bytes are not a message, or the message is too long.
    pub(crate) async fn next(&mut self) -> Result<Option<PgWireFrontendMessage>, SqlError> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            let mut part = [0; READ_BYTES];
            match self.stream.read(&mut part).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(count) => self.input.extend_from_slice(&part[..count]),
            }
        }
    }

    /// Decodes the message at the start of the input, if all its bytes are there.
    fn decode(&mut self) -> Result<Option<PgWireFrontendMessage>, SqlError> {
        let is_ready = self.phase == Phase::Ready;
        // Before authentication a message has no type byte, only its length.
        let type_bytes = usize::from(is_ready || self.phase == Phase::Authentication);
        let most = if is_ready { MESSAGE_BYTES_MAX } else { STARTUP_BYTES_MAX };
        let Some(length) = self.input.get(type_bytes..type_bytes + 4) else { return Ok(None) };
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        if !(4..=most).contains(&length) {
            let what = format!("a message says that it has {length} bytes, and may have 4 to {most}");
            return Err(SqlError::fatal("08P01", what));
        }
        if self.input.len() < type_bytes + length {
            return Ok(None);
        }
        let mut message = self.input.split_to(type_bytes + length);
        check_encoding(&message, is_ready)?;
        let is_first = self.phase == Phase::Startup;
        // A cancel request names no version. As one of the newest version, a secret of any length
        // is read.
        let version = if is_first { ProtocolVersion::PROTOCOL3_2 } else { self.version };
        let mut context = DecodeContext::new(version);
        context.awaiting_frontend_ssl = is_first;
        context.awaiting_frontend_startup = is_first;
        let mut decode = || {
            let decoded = PgWireFrontendMessage::decode(&mut message, &context)?;
            // The message is no request for encryption, so it is the start-up message or a cancel
            // request.
            if let Some(PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::None)) = decoded {
                context.awaiting_frontend_ssl = false;
                return PgWireFrontendMessage::decode(&mut message, &context);
            }
            Ok(decoded)
        };
        match catch_unwind(AssertUnwindSafe(&mut decode)) {
            Ok(Ok(Some(decoded))) => Ok(Some(decoded)),
            Ok(Err(error)) => Err(SqlError::fatal("08P01", error.to_string())),
            Ok(Ok(None)) | Err(_) => {
                Err(SqlError::fatal("08P01", "a message is not what its type and length say"))
            }
        }
    }

    /// Appends a message to the output.
    pub(crate) fn put(&mut self, message: &PgWireBackendMessage) {
        // Encoding fails only for messages longer than their type allows, and the server makes
        // none.
        let encoded = message.encode(&mut self.output);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
    }

    /// The output buffer, for messages that are written in place.
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Whether the output is large enough to be sent.
    pub(crate) fn is_full(&self) -> bool {
        self.output.len() >= SEND_BYTES
    }

    /// Sends the output. If the future is dropped before it is done, the next call sends the rest.
    ///
    /// # Errors
    /// When the client closed the connection.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            if self.stream.write_buf(&mut self.output).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.stream.flush().await
    }
}

/// Checks that the text of a statement is UTF-8. `pgwire` would replace other bytes by question
/// marks.
fn check_encoding(message: &[u8], is_ready: bool) -> Result<(), SqlError> {
    let texts = match message.first() {
        Some(b'Q') if is_ready => 1,
        Some(b'P') if is_ready => 2, // A name, and the statement.
        _ => return Ok(()),
    };
    let body = message.get(5..).unwrap_or_default();
    let is_text = body.split(|byte| *byte == 0).take(texts).all(|text| std::str::from_utf8(text).is_ok());
    if is_text { Ok(()) } else { Err(SqlError::fatal("22021", "a statement is not UTF-8; send it as such")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(phase: Phase, bytes: &[u8]) -> Result<Vec<String>, SqlError> {
        let mut wire = Wire::new(tokio_test_stream(bytes));
        wire.phase = phase;
        let mut names = Vec::new();
        while let Some(message) = wire.next().await? {
            let text = format!("{message:?}");
            names.push(text.split(['(', ' ']).next().unwrap_or_default().to_owned());
        }
        Ok(names)
    }

    /// A stream that reads these bytes and discards what is written.
    fn tokio_test_stream(bytes: &[u8]) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
        tokio::io::join(std::io::Cursor::new(bytes.to_vec()), tokio::io::sink())
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    #[tokio::test]
    async fn messages_are_read_one_behind_the_other() {
        let start_up = b"\0\0\0\x11\0\x03\0\0user\0me\0\0";
        assert_eq!(read(Phase::Startup, start_up).await.expect("a start-up"), ["Startup"]);
        let bytes = [message(b'Q', b"SELECT 1\0"), message(b'S', b"")].concat();
        assert_eq!(read(Phase::Ready, &bytes).await.expect("two"), ["Query", "Sync"]);
        let cut = &bytes[..bytes.len() - 2];
        assert_eq!(read(Phase::Ready, cut).await.expect("one, and a part"), ["Query"]);
    }

    #[tokio::test]
    async fn what_lies_about_its_length_ends_the_connection() {
        for (phase, bytes) in [
            (Phase::Startup, &b"\x7f\xff\xff\xff\0\x03\0\0"[..]),
            (Phase::Startup, b"\0\0\0\0\0\x03\0\0"),
            (Phase::Ready, b"Q\x3f\xff\xff\xf0SELECT"),
            (Phase::Ready, b"Q\0\0\0\x03"),
            (Phase::Ready, b"z\0\0\0\x04"),
            // A string that has no end within the message.
            (Phase::Ready, b"B\0\0\0\x0c\0\0\0\0\x7f\xff\0\0"),
        ] {
            let error = read(phase, bytes).await.expect_err("it is no message");
            assert!(error.is_fatal && error.state == "08P01", "{bytes:?}: {error}");
        }
        let error = read(Phase::Ready, &message(b'Q', b"SELECT '\xff'\0")).await.expect_err("no UTF-8");
        assert_eq!(error.state, "22021");
    }
}
