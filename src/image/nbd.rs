// SPDX-License-Identifier: LGPL-2.1-or-later
//! NBD URIs: `nbd://host[:port]/export` and `nbd+unix:///export?socket=/path`.

use fluent_uri::Uri;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};

const DEFAULT_PORT: u16 = 10809;

/// Where an NBD server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Server {
    Tcp { host: String, port: u16 },
    Unix { socket: String },
}

/// An export of an NBD server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) server: Server,
}

pub(super) fn is_nbd(text: &str) -> bool {
    text.starts_with("nbd://") || text.starts_with("nbd+unix://")
}

pub(super) fn parse(text: &str) -> Result<Export> {
    let wrong = |why: &str| {
        Error::new(
            ErrorCode::InvalidArgument,
            format!("destination '{text}': {why}; write nbd://host[:port]/export or nbd+unix:///export?socket=/path"),
        )
    };
    let uri = Uri::parse(text).map_err(|error| wrong(&error.to_string()))?;
    let decode = |text: std::result::Result<std::borrow::Cow<'_, str>, Vec<u8>>| {
        text.map(std::borrow::Cow::into_owned)
            .map_err(|_| wrong("an escape is not UTF-8"))
    };
    let mut name = decode(uri.path().decode().to_string())?;
    if name.starts_with('/') {
        name.remove(0);
    }
    if uri.scheme().as_str() == "nbd+unix" {
        let socket = uri
            .query()
            .and_then(|query| {
                query
                    .split('&')
                    .filter_map(|pair| pair.split_once('='))
                    .find(|(key, _)| key.as_str() == "socket")
            })
            .ok_or_else(|| wrong("it names no socket"))?;
        let socket = decode(socket.1.decode().to_string())?;
        if !socket.starts_with('/') {
            return Err(wrong("the socket is not an absolute path"));
        }
        return Ok(Export {
            name,
            server: Server::Unix { socket },
        });
    }
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or_else(|| wrong("it names no host"))?;
    let port = authority
        .port_to_u16()
        .map_err(|_| wrong("the port is not a number up to 65535"))?;
    Ok(Export {
        name,
        server: Server::Tcp {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: port.unwrap_or(DEFAULT_PORT),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_uri() {
        let export = parse("nbd://host.example/disk%20a").unwrap();
        assert_eq!(export.name, "disk a");
        assert_eq!(
            export.server,
            Server::Tcp {
                host: "host.example".into(),
                port: 10809
            }
        );
        let export = parse("nbd://[::1]:10810").unwrap();
        assert_eq!(export.name, "");
        assert_eq!(
            export.server,
            Server::Tcp {
                host: "::1".into(),
                port: 10810
            }
        );
        let export = parse("nbd+unix:///e?socket=/run/a%26b.sock").unwrap();
        assert_eq!(
            export.server,
            Server::Unix {
                socket: "/run/a&b.sock".into()
            }
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        for (text, part) in [
            ("nbd:///e", "no host"),
            ("nbd+unix:///e", "no socket"),
            ("nbd+unix:///e?socket=relative", "absolute"),
            ("nbd://h:99999/e", "port"),
            ("nbd://h/%ff", "UTF-8"),
            ("nbd://h/a b", "nbd://h/a b"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message().contains(part), "{text}: {error}");
        }
    }
}
