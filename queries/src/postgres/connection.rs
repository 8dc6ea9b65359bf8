//! One connection of the Postgres wire protocol, of which nothing is believed before it is checked.
//!
//! `pgwire` decodes messages and answers them; how much of one is read, and how long a client may take, is decided here. It
//! takes what a client says of a message's length as memory to wait for, up to a gigabyte, and after an error in the start-up it would
//! go on as if that had succeeded. So a message is bounded by its stated length before it is read, its decoding may panic, the
//! start-up has a time, and any error in it is the last word.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use datafusion_postgres::pgwire::api::query::ExtendedQueryHandler;
use datafusion_postgres::pgwire::api::{ClientInfo, DefaultClient, NoopHandler, PgWireConnectionState};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError};
use datafusion_postgres::pgwire::messages::response::{GssEncResponse, SslResponse};
use datafusion_postgres::pgwire::messages::{
    PgWireBackendMessage, PgWireFrontendMessage, SslNegotiationMetaMessage,
};
use datafusion_postgres::pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use futures::SinkExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::codec::{Decoder, Framed};

use super::{Handlers, STATEMENT_WITHIN, failed};
use crate::bounds::SQL_BYTES_MAX;

/// How long a client may take from its first byte until it is let in.
pub(super) const START_WITHIN: Duration = Duration::from_secs(10);

/// How long a client that was not let in is kept waiting for the answer: whoever tries passwords tries few.
const DENIED_AFTER: Duration = Duration::from_secs(1);

/// How many bytes a message may have before its client is known; it says who it is, and no more.
const START_BYTES_MAX: usize = 10_000;

/// How many bytes a message may have: the longest statement, and parameters.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 * SQL_BYTES_MAX;

/// How many statements and portals a client may have under names of its own.
const NAMES_MAX: usize = 256;

/// How long a client may take for an answer that waits for it, behind the time that the statement has.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// How many bytes are read at once.
const READ_BYTES: usize = 16 << 10;

type Statement = <super::Bounded as ExtendedQueryHandler>::Statement;
type Socket<S> = Framed<S, PgWireMessageServerCodec<Statement>>;

/// Serves one client until it leaves, or is sent away.
pub(super) async fn serve<S>(stream: S, peer: std::net::SocketAddr, handlers: &Handlers)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let client = DefaultClient::new(peer, false);
    let mut socket: Socket<S> = Framed::new(stream, PgWireMessageServerCodec::new(client));
    let late = tokio::time::sleep(START_WITHIN);
    tokio::pin!(late);
    let mut names = BTreeSet::new();
    loop {
        let starts = is_starting(&socket);
        let message = tokio::select! {
            message = next(&mut socket, starts) => message,
            () = &mut late, if starts => Err(fatal("57P05", "the client took too long to say who it is")),
        };
        let message = match message {
            Ok(Some(PgWireFrontendMessage::Terminate(_)) | None) => return,
            Ok(Some(message)) => message,
            Err(error) => {
                let _ = process_error(&mut socket, error, false).await;
                return;
            }
        };
        if let PgWireFrontendMessage::SslNegotiation(asked) = message {
            if negotiate(&mut socket, asked).await.is_err() {
                return;
            }
            continue;
        }
        let is_cancel = matches!(message, PgWireFrontendMessage::CancelRequest(_));
        let is_extended = message.is_extended_query();
        let done = match name(&message, &mut names) {
            Ok(()) => {
                let (startup, queries) = (Arc::clone(&handlers.startup), Arc::clone(&handlers.queries));
                let (extended, cancel) = (Arc::clone(&queries), Arc::clone(&handlers.cancel));
                let copy = Arc::new(NoopHandler);
                let answered =
                    process_message(message, &mut socket, startup, queries, extended, copy, cancel);
                match tokio::time::timeout(STATEMENT_WITHIN + TAKEN_WITHIN, answered).await {
                    Ok(done) => done,
                    Err(_) => return, // It does not read, so there is no telling it.
                }
            }
            Err(error) => Err(error),
        };
        if is_cancel {
            return;
        }
        if let Err(error) = done {
            tracing::debug!(%error, "a Postgres client is told of an error");
            if starts {
                tokio::time::sleep(DENIED_AFTER).await;
            }
            let told = process_error(&mut socket, error, is_extended).await;
            if starts || told.is_err() {
                return; // Whoever was not let in has nothing more to say here.
            }
        }
    }
}

/// Counts the names that a client gives.
fn name(message: &PgWireFrontendMessage, names: &mut BTreeSet<(u8, String)>) -> Result<(), PgWireError> {
    let name = match message {
        PgWireFrontendMessage::Parse(parse) => (b'S', &parse.name),
        PgWireFrontendMessage::Bind(bind) => (b'P', &bind.portal_name),
        PgWireFrontendMessage::Close(close) => {
            names.remove(&(close.target_type, close.name.clone().unwrap_or_default()));
            return Ok(());
        }
        _ => return Ok(()),
    };
    if let (kind, Some(name)) = name {
        names.insert((kind, name.clone()));
    }
    if names.len() > NAMES_MAX {
        let what = format!("there are {NAMES_MAX} named statements and portals; close some first");
        return Err(failed("54000", what));
    }
    Ok(())
}

fn is_starting<S: 'static>(socket: &Socket<S>) -> bool {
    matches!(
        socket.state(),
        PgWireConnectionState::AwaitingSslRequest
            | PgWireConnectionState::AwaitingStartup
            | PgWireConnectionState::AuthenticationInProgress
    )
}

/// Says that nothing is encrypted here; any other first message is the start-up.
async fn negotiate<S>(socket: &mut Socket<S>, asked: SslNegotiationMetaMessage) -> Result<(), std::io::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    match asked {
        SslNegotiationMetaMessage::PostgresSsl(_) => {
            socket.send(PgWireBackendMessage::SslResponse(SslResponse::Refuse)).await
        }
        SslNegotiationMetaMessage::PostgresGss(_) => {
            socket.send(PgWireBackendMessage::GssEncResponse(GssEncResponse::Refuse)).await
        }
        SslNegotiationMetaMessage::None => {
            socket.set_state(PgWireConnectionState::AwaitingStartup);
            Ok(())
        }
    }
}

/// The next message; `None` once the client has gone.
async fn next<S>(socket: &mut Socket<S>, starts: bool) -> Result<Option<PgWireFrontendMessage>, PgWireError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    loop {
        // A message before the start-up has no type, only its length.
        let typed =
            usize::from(matches!(socket.state(), PgWireConnectionState::AuthenticationInProgress) || !starts);
        let most = if starts { START_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        if let Some(length) = stated_length(socket.read_buffer(), typed)
            && !(4..=most).contains(&length)
        {
            let what = format!("a message says that it has {length} bytes, and may have 4 to {most}");
            return Err(fatal("08P01", &what));
        }
        let mut buffer = std::mem::take(socket.read_buffer_mut());
        let decoded = catch_unwind(AssertUnwindSafe(|| socket.codec_mut().decode(&mut buffer)));
        *socket.read_buffer_mut() = buffer;
        match decoded {
            Ok(Ok(Some(message))) => return Ok(Some(message)),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return Err(fatal("08P01", &error.to_string())),
            Err(_) => return Err(fatal("08P01", "a message is not what its type and length say")),
        }
        let mut part = [0; READ_BYTES];
        match socket.get_mut().read(&mut part).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(count) => socket.read_buffer_mut().extend_from_slice(&part[..count]),
        }
    }
}

/// How long the message that begins a buffer says it is, its length included.
fn stated_length(buffer: &BytesMut, at: usize) -> Option<usize> {
    let length = buffer.get(at..at + 4)?;
    Some(u32::from_be_bytes(length.try_into().expect("four bytes")) as usize)
}

fn fatal(state: &str, what: &str) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("FATAL".to_owned(), state.to_owned(), what.to_owned())))
}
