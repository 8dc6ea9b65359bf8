//! The settings of tracing, read from the environment variables of OpenTelemetry.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Uri};

use super::context::Sampler;

/// The settings of tracing: the collector, and which traces are sampled.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The URL that spans are sent to.
    pub endpoint: Uri,
    /// Headers that are sent along, such as an API key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The name of this service.
    pub service: String,
    /// Decides which traces are sampled.
    pub sampler: Sampler,
    /// The timeout of a request.
    pub timeout: Duration,
}

/// Why the settings of tracing were refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The endpoint is not an HTTP URL.
    #[error(
        "OTEL_EXPORTER_OTLP_ENDPOINT is `{endpoint}`; name an http address such as http://127.0.0.1:4318 (https is not \
         supported: a collector beside this process can forward)"
    )]
    Endpoint {
        /// The value, without user and password.
        endpoint: String,
    },
    /// A header is malformed. Its value is not shown, since it may be a key.
    #[error("OTEL_EXPORTER_OTLP_HEADERS: part {number} is not `name=value`; parts are separated by commas")]
    Header {
        /// The number of the part, from 1.
        number: usize,
    },
    /// The sampler does not exist, or its argument is wrong.
    #[error(
        "OTEL_TRACES_SAMPLER is `{name}` with the argument `{argument}`; use always_on, always_off, traceidratio with a share \
         from 0 to 1 in OTEL_TRACES_SAMPLER_ARG, or one of these after parentbased_"
    )]
    Sampler {
        /// Its name.
        name: String,
        /// Its argument.
        argument: String,
    },
    /// The timeout is not a positive number.
    #[error("OTEL_EXPORTER_OTLP_TIMEOUT is `{text}`; give whole milliseconds, at least 1")]
    Timeout {
        /// The value.
        text: String,
    },
}

impl Settings {
    /// Reads the settings; `None` when no endpoint is named, which turns tracing off.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, SettingsError> {
        let set =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if set("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        // The endpoint for traces is used as it is; the one for all signals gets the path appended.
        let named = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
            set("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| format!("{}/v1/traces", base.trim_end_matches('/')))
        });
        let Some(named) = named else { return Ok(None) };
        let endpoint: Option<Uri> = named.parse().ok();
        let endpoint = endpoint
            .filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()))
            .ok_or(SettingsError::Endpoint { endpoint: without_user(&named) })?;
        let headers = set("OTEL_EXPORTER_OTLP_TRACES_HEADERS").or_else(|| set("OTEL_EXPORTER_OTLP_HEADERS"));
        let headers = (1..).zip(headers.iter().flat_map(|text| text.split(','))).map(|(number, part)| {
            let header = part.split_once('=').and_then(|(name, value)| {
                let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
                let mut value = HeaderValue::from_bytes(&percent_decoded(value.trim())?).ok()?;
                value.set_sensitive(true);
                Some((name, value))
            });
            header.ok_or(SettingsError::Header { number })
        });
        let headers = headers.collect::<Result<_, _>>()?;
        let sampler = match set("OTEL_TRACES_SAMPLER") {
            None => Sampler::DEFAULT,
            Some(name) => {
                let argument = set("OTEL_TRACES_SAMPLER_ARG");
                Sampler::of(&name, argument.as_deref())
                    .ok_or(SettingsError::Sampler { name, argument: argument.unwrap_or_default() })?
            }
        };
        let timeout = match set("OTEL_EXPORTER_OTLP_TIMEOUT") {
            None => Duration::from_secs(10),
            Some(text) => match text.parse() {
                Ok(millis @ 1..) => Duration::from_millis(millis),
                _ => return Err(SettingsError::Timeout { text }),
            },
        };
        let service = set("OTEL_SERVICE_NAME").unwrap_or_else(|| "tidegate".to_owned());
        Ok(Some(Settings { endpoint, headers, service, sampler, timeout }))
    }
}

/// A URL without user and password.
fn without_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://..@{}", &url[..scheme], &url[at + 1..]),
        _ => url.to_owned(),
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            (16 * digit(bytes.next()?)? + digit(bytes.next()?)?) as u8
        } else {
            byte
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<Settings>, SettingsError> {
        Settings::read(|name| {
            set.iter().find(|(variable, _)| *variable == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn without_an_endpoint_nothing_is_traced() {
        assert!(read(&[("OTEL_TRACES_SAMPLER", "nonsense")]).expect("it is not read").is_none());
        let disabled = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_SDK_DISABLED", "true")];
        assert!(read(&disabled).expect("it is not read").is_none());
    }

    #[test]
    fn the_variables_mean_what_the_standard_says() {
        let set = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,x=1"),
            ("OTEL_SERVICE_NAME", "fraud"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ];
        let settings = read(&set).expect("all is right").expect("an endpoint is named");
        assert_eq!(settings.endpoint.to_string(), "http://collector:4318/v1/traces");
        assert_eq!(settings.headers[0].1.as_bytes(), b"a b");
        assert_eq!((settings.service.as_str(), settings.timeout), ("fraud", Duration::from_millis(250)));
        assert_eq!(settings.sampler, Sampler { parent_based: true, share: 0.5 });
    }

    #[test]
    fn an_error_names_the_variable_and_shows_no_key() {
        let with = |name, text| {
            let error = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x"), (name, text)]);
            error.expect_err("it is wrong").to_string()
        };
        let header = with("OTEL_EXPORTER_OTLP_HEADERS", "a=1,secret");
        assert!(header.contains("part 2") && !header.contains("secret"), "{header}");
        assert!(with("OTEL_TRACES_SAMPLER", "often").contains("`often`"));
        assert!(with("OTEL_EXPORTER_OTLP_TIMEOUT", "soon").contains("`soon`"));
        let endpoint = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:secret@c")]);
        let endpoint = endpoint.expect_err("https is not supported").to_string();
        assert!(endpoint.contains("https://..@c") && !endpoint.contains("secret"), "{endpoint}");
    }
}
