//! Where traces go, and which: what the environment variables of OpenTelemetry say.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Uri};

use super::context::Sampler;

/// Where traces go, and which.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where a request with spans is sent.
    pub endpoint: Uri,
    /// What is sent with it, such as a key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What this service is called.
    pub service: String,
    /// Which traces are followed.
    pub sampler: Sampler,
    /// How long a request may take.
    pub within: Duration,
}

/// Why the settings of traces were refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The endpoint is none.
    #[error(
        "OTEL_EXPORTER_OTLP_ENDPOINT is `{endpoint}`; name an http address such as http://127.0.0.1:4318 (https is not \
         spoken: a collector beside this process can forward)"
    )]
    Endpoint {
        /// What it is.
        endpoint: String,
    },
    /// A header is none. Its value is not shown: it may be a key.
    #[error("OTEL_EXPORTER_OTLP_HEADERS: part {place} is no `name=value`; parts are separated by commas")]
    Header {
        /// Which one, from 1.
        place: usize,
    },
    /// The sampler is not known.
    #[error(
        "OTEL_TRACES_SAMPLER is `{name}` with the argument `{argument}`; use always_on, always_off, traceidratio with a share \
         from 0 to 1 in OTEL_TRACES_SAMPLER_ARG, or one of these behind parentbased_"
    )]
    Sampler {
        /// Its name.
        name: String,
        /// Its argument.
        argument: String,
    },
    /// The time that a request may take is none.
    #[error("OTEL_EXPORTER_OTLP_TIMEOUT is `{text}`; give whole milliseconds, at least 1")]
    Timeout {
        /// What it is.
        text: String,
    },
}

impl Settings {
    /// What the variables say; `None` when no endpoint is named, which means no traces.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, SettingsError> {
        let set =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if set("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        // The one for traces is taken as it is; to the one for all signals the path is added.
        let named = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
            set("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| format!("{}/v1/traces", base.trim_end_matches('/')))
        });
        let Some(named) = named else { return Ok(None) };
        let endpoint: Option<Uri> = named.parse().ok();
        let endpoint = endpoint
            .filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()))
            .ok_or(SettingsError::Endpoint { endpoint: without_user(&named) })?;
        let headers = set("OTEL_EXPORTER_OTLP_TRACES_HEADERS").or_else(|| set("OTEL_EXPORTER_OTLP_HEADERS"));
        let headers = (1..).zip(headers.iter().flat_map(|text| text.split(','))).map(|(place, part)| {
            let header = part.split_once('=').and_then(|(name, value)| {
                let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
                let mut value = HeaderValue::from_bytes(&percent_decoded(value.trim())?).ok()?;
                value.set_sensitive(true);
                Some((name, value))
            });
            header.ok_or(SettingsError::Header { place })
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
        let within = match set("OTEL_EXPORTER_OTLP_TIMEOUT") {
            None => Duration::from_secs(10),
            Some(text) => match text.parse() {
                Ok(millis @ 1..) => Duration::from_millis(millis),
                _ => return Err(SettingsError::Timeout { text }),
            },
        };
        let service = set("OTEL_SERVICE_NAME").unwrap_or_else(|| "tidegate".to_owned());
        Ok(Some(Settings { endpoint, headers, service, sampler, within }))
    }
}

/// A URL without a user and a password.
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
            set.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn without_an_endpoint_nothing_is_traced() {
        assert!(read(&[("OTEL_TRACES_SAMPLER", "nonsense")]).expect("nobody asks").is_none());
        let disabled = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_SDK_DISABLED", "true")];
        assert!(read(&disabled).expect("nobody asks").is_none());
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
        assert_eq!((settings.service.as_str(), settings.within), ("fraud", Duration::from_millis(250)));
        assert_eq!(settings.sampler, Sampler { parent_based: true, share: 0.5 });
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_shown() {
        let with = |name, text| {
            let error = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x"), (name, text)]);
            error.expect_err("it is wrong").to_string()
        };
        let header = with("OTEL_EXPORTER_OTLP_HEADERS", "a=1,secret");
        assert!(header.contains("part 2") && !header.contains("secret"), "{header}");
        assert!(with("OTEL_TRACES_SAMPLER", "often").contains("`often`"));
        assert!(with("OTEL_EXPORTER_OTLP_TIMEOUT", "soon").contains("`soon`"));
        let endpoint = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:secret@c")]);
        let endpoint = endpoint.expect_err("https is not spoken").to_string();
        assert!(endpoint.contains("https://..@c") && !endpoint.contains("secret"), "{endpoint}");
    }
}
