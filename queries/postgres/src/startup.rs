//! The start of a connection: start-up message, password and server settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::response::{GssEncResponse, ReadyForQuery, SslResponse, TransactionStatus};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, Startup,
};
use pgwire::messages::{
    PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion, SslNegotiationMetaMessage,
};
use tidegate_facts::Digest;
use tidegate_queries::access::{Keys, Role};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::cancellation::{CancelKey, Cancellations};
use crate::connection::{Phase, Wire};
use crate::error::SqlError;
use crate::session::Settings;

/// How long a client may take from its first byte until it is authenticated.
pub(crate) const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the answer to a wrong key is delayed at the start of a connection.
pub(crate) const DENIAL_DELAY: Duration = Duration::from_secs(1);

/// A client that was authenticated at the start of its connection.
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) settings: Settings,
    pub(crate) key: CancelKey,
}

/// Authenticates a client. Returns `None` when the client sent a cancel request instead, or closed
/// the connection.
///
/// # Errors
/// Fatal errors: 57P05 when the client takes too long, 28000 when it names no user, 28P01 when the
/// key is wrong, 08P01 when a message is not the expected one.
pub(crate) async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    keys: &Keys,
    cancellations: &Arc<Cancellations>,
) -> Result<Option<Login>, SqlError> {
    let login = async {
        let Some(startup) = first_message(wire, cancellations).await? else { return Ok(None) };
        negotiate_version(wire, &startup);
        let user = startup.parameters.get("user").cloned().unwrap_or_default();
        if user.is_empty() {
            return Err(SqlError::fatal("28000", "the client names no user; name the key's id as user"));
        }
        if !keys.is_empty() && !authenticate(wire, keys, &user).await? {
            return Ok(None);
        }
        let key = cancellations.enter(wire.version)?;
        let settings = Settings::at_start(&user, &startup.parameters);
        welcome(wire, &settings, &key);
        if wire.flush().await.is_err() {
            return Ok(None);
        }
        wire.phase = Phase::Ready;
        Ok(Some(Login { user, settings, key }))
    };
    let too_late = || SqlError::fatal("57P05", "the client took too long to say who it is");
    tokio::time::timeout(STARTUP_TIMEOUT, login).await.unwrap_or_else(|_| Err(too_late()))
}

/// Reads the start-up message and refuses the requests for encryption before it. Returns `None`
/// after a cancel request, or when the client closed the connection.
async fn first_message<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    cancellations: &Cancellations,
) -> Result<Option<Startup>, SqlError> {
    loop {
        let refusal = match wire.next().await? {
            Some(PgWireFrontendMessage::Startup(startup)) => return Ok(Some(startup)),
            Some(PgWireFrontendMessage::CancelRequest(request)) => {
                cancellations.cancel(request.pid, &request.secret_key);
                return Ok(None);
            }
            Some(PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::PostgresSsl(_))) => {
                PgWireBackendMessage::SslResponse(SslResponse::Refuse)
            }
            Some(PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::PostgresGss(_))) => {
                PgWireBackendMessage::GssEncResponse(GssEncResponse::Refuse)
            }
            Some(_) => return Err(SqlError::fatal("08P01", "the first message is no start-up")),
            None => return Ok(None),
        };
        wire.put(&refusal);
        if wire.flush().await.is_err() {
            return Ok(None);
        }
    }
}

/// Accepts the protocol version of the client, or offers it the newest one of the server.
fn negotiate_version<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, startup: &Startup) {
    let (major, minor) = (startup.protocol_number_major, startup.protocol_number_minor);
    let unknown: Vec<String> =
        startup.parameters.keys().filter(|name| name.starts_with("_pq_.")).cloned().collect();
    let version = ProtocolVersion::from_version_number(major, minor);
    wire.version = version.unwrap_or_default();
    if version.is_none() || !unknown.is_empty() {
        let newest = NegotiateProtocolVersion::new(wire.version.into(), unknown);
        wire.put(&PgWireBackendMessage::NegotiateProtocolVersion(newest));
    }
}

/// Asks for the key of `user`. Returns `false` when the client closed the connection.
///
/// # Errors
/// 28P01 when the key is wrong, or no key with the role of a reader has this id.
async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    keys: &Keys,
    user: &str,
) -> Result<bool, SqlError> {
    wire.phase = Phase::Authentication;
    wire.put(&PgWireBackendMessage::Authentication(Authentication::CleartextPassword));
    if wire.flush().await.is_err() {
        return Ok(false);
    }
    let message = match wire.next().await? {
        Some(PgWireFrontendMessage::PasswordMessageFamily(message)) => message,
        Some(PgWireFrontendMessage::Terminate(_)) | None => return Ok(false),
        Some(_) => return Err(SqlError::fatal("08P01", "the password must come first")),
    };
    let password = message.into_password().map_err(|error| SqlError::fatal("08P01", error.to_string()))?;
    // The keys file holds digests, so the digest of the password is compared.
    if keys.digest_of(user, Role::Reader) == Some(Digest::of(password.password.as_bytes())) {
        Ok(true)
    } else {
        Err(SqlError::fatal("28P01", format!("password authentication failed for user \"{user}\"")))
    }
}

/// Sends the settings of the connection and its cancel key.
fn welcome<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, settings: &Settings, key: &CancelKey) {
    wire.put(&PgWireBackendMessage::Authentication(Authentication::Ok));
    put_settings(wire, settings.reported());
    let key = BackendKeyData::new(key.process, key.secret.clone());
    wire.put(&PgWireBackendMessage::BackendKeyData(key));
    wire.put(&PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle)));
}

/// Sends a `ParameterStatus` message for each setting at the start of a connection.
pub(crate) fn put_settings<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    settings: BTreeMap<&'static str, String>,
) {
    for (name, value) in settings {
        let status = ParameterStatus::new(name.to_owned(), value);
        wire.put(&PgWireBackendMessage::ParameterStatus(status));
    }
}
