//! AMQP URIs (`amqp://user:password@host:port/vhost?query`), parsed strictly.
//!
//! The syntax is that of RabbitMQ's AMQP URI specification and its URI query parameters. Where the
//! specification leaves a choice, the stricter reading is taken: a URI that is misspelt can put a
//! password where the host or the virtual host is expected, and it must not be sent or shown there.
//! For the same reason no error text contains any part of the URI but the name of a parameter.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;

use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};

/// AMQP's own minimum for frame-max (`frame-min-size`, AMQP 0-9-1, 4.2.3).
const FRAME_MIN: u64 = 4096;
/// The largest frame_max that can be requested: both sides may hold a whole frame in memory. RabbitMQ's
/// default is 128 KiB.
const FRAME_LIMIT: u64 = 1024 * 1024;
/// The longest virtual host in bytes: it is sent as a short string.
const VHOST_MAX: usize = 255;
/// The longest host name that DNS allows.
const HOST_MAX: usize = 253;

/// Error returned when parsing an AMQP URI fails. It contains no user info, host or virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UriError(Cow<'static, str>);

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn error<T>(text: impl Into<Cow<'static, str>>) -> Result<T, UriError> {
    Err(UriError(text.into()))
}

/// Splits a list of URIs at its commas. A comma that no scheme follows is part of a URI: it may
/// stand in a password.
pub(super) fn split(list: &str) -> Vec<&str> {
    let mut uris = Vec::new();
    let (mut begin, mut from) = (0, 0);
    while let Some(found) = list[from..].find(',') {
        let comma = from + found;
        from = comma + 1;
        if strip_scheme(list[from..].trim_start()).is_some() {
            uris.push(&list[begin..comma]);
            begin = from;
        }
    }
    uris.push(&list[begin..]);
    uris
}

/// Parses one URI. The defaults are user `guest`, password `guest`, port 5672 (TLS: 5671) and virtual host
/// `/`.
pub(super) fn parse(uri: &str) -> Result<AMQPUri, UriError> {
    let uri = uri.trim();
    if uri
        .chars()
        .any(|each| each.is_whitespace() || each.is_control())
    {
        return error("it contains white space or a control character, which is percent-encoded");
    }
    let Some((scheme, rest)) = strip_scheme(uri) else {
        return error("it does not begin with `amqp://` or `amqps://`");
    };
    if rest.contains('#') {
        return error("it contains a `#`, which is written %23");
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if tail.contains('@') {
        return error(
            "it contains a `@` after the host: in the user name and the password `/` is written \
             %2F and `?` is written %3F; elsewhere `@` is written %40",
        );
    }
    let (path, query) = match tail.split_once('?') {
        Some((path, query)) => (path, query),
        None => (tail, ""),
    };
    let (userinfo, server) = match authority.rsplit_once('@') {
        Some((userinfo, server)) => (Some(userinfo), server),
        None => (None, authority),
    };
    let userinfo = userinfo.map(parse_userinfo).transpose()?;
    let (host, port) = parse_server(server)?;
    Ok(AMQPUri {
        authority: AMQPAuthority {
            userinfo: userinfo.unwrap_or_default(),
            host,
            port: port.unwrap_or_else(|| scheme.default_port()),
        },
        scheme,
        vhost: parse_vhost(path)?,
        query: parse_query(query)?,
    })
}

fn strip_scheme(uri: &str) -> Option<(AMQPScheme, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    if scheme.eq_ignore_ascii_case("amqp") {
        Some((AMQPScheme::AMQP, rest))
    } else if scheme.eq_ignore_ascii_case("amqps") {
        Some((AMQPScheme::AMQPS, rest))
    } else {
        None
    }
}

fn parse_userinfo(userinfo: &str) -> Result<AMQPUserInfo, UriError> {
    if userinfo.contains('@') {
        return error(
            "it contains more than one `@` before the host: in the user name and the password it \
             is written %40",
        );
    }
    let (username, password) = match userinfo.split_once(':') {
        Some((username, password)) => (username, Some(password)),
        None => (userinfo, None),
    };
    let username = decode(username, "the user name")?;
    if username.is_empty() {
        return error("the user name is empty");
    }
    let password = match password {
        Some(password) => decode(password, "the password")?,
        None => AMQPUserInfo::default().password,
    };
    Ok(AMQPUserInfo { username, password })
}

fn parse_server(server: &str) -> Result<(String, Option<u16>), UriError> {
    let (host, port) = if let Some(literal) = server.strip_prefix('[') {
        let Some((literal, rest)) = literal.split_once(']') else {
            return error("the bracket after an IPv6 address is missing");
        };
        let host = parse_ipv6(literal)?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return error("only `:` and a port may follow an IPv6 address"),
        }
    } else {
        let (host, port) = match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        };
        if port.is_some_and(|port| port.contains(':')) {
            return error(
                "host and port contain more than one `:`: an IPv6 address stands in brackets, as in \
                 [2001:db8::1]",
            );
        }
        (parse_host(host)?, port)
    };
    let port = port.map(parse_port).transpose()?;
    Ok((host, port))
}

fn parse_host(host: &str) -> Result<String, UriError> {
    if host.contains(',') {
        return error(
            "it contains a comma in the host: each of several addresses is a whole URI, with its \
             scheme",
        );
    }
    let host = decode(host, "the host")?;
    if host.is_empty() {
        return error("the host is missing");
    }
    let is_name = |each: char| each.is_ascii_alphanumeric() || matches!(each, '-' | '.' | '_');
    if host.len() > HOST_MAX || !host.chars().all(is_name) {
        return error(
            "the host is neither a host name (letters, digits, `-`, `.` and `_`) nor an IP address",
        );
    }
    Ok(host)
}

/// An IPv6 address, with the zone that a link-local one may have (RFC 6874: `%25` and its name).
fn parse_ipv6(literal: &str) -> Result<String, UriError> {
    let literal = decode(literal, "the host")?;
    let (address, zone) = match literal.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (&*literal, None),
    };
    let is_zone = |zone: &str| {
        let is_name = |each: char| each.is_ascii_alphanumeric() || matches!(each, '-' | '.' | '_');
        !zone.is_empty() && zone.chars().all(is_name)
    };
    if address.parse::<Ipv6Addr>().is_err() || !zone.is_none_or(is_zone) {
        return error("the text in brackets is not an IPv6 address");
    }
    Ok(literal)
}

fn parse_port(port: &str) -> Result<u16, UriError> {
    match number(port, 1..=u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok()) {
        Some(port) => Ok(port),
        None => error("the port is not a number from 1 to 65535"),
    }
}

fn parse_vhost(path: &str) -> Result<String, UriError> {
    let segment = path.strip_prefix('/').unwrap_or(path);
    // According to the specification `amqp://host/` means the virtual host "", which RabbitMQ does not
    // have. It is taken as `/`, and so is `amqp://host//`.
    if segment.is_empty() || segment == "/" {
        return Ok("/".to_owned());
    }
    if segment.contains('/') {
        return error("the virtual host contains a `/`, which is written %2F");
    }
    if segment.contains(',') {
        return error(
            "the virtual host contains a comma, which is written %2C; each of several addresses \
             is a whole URI, with its scheme",
        );
    }
    let vhost = decode(segment, "the virtual host")?;
    if vhost.len() > VHOST_MAX {
        return error(format!(
            "the virtual host is longer than {VHOST_MAX} bytes, the most that AMQP can send"
        ));
    }
    Ok(vhost)
}

const PARAMETERS: &str =
    "`heartbeat`, `frame_max`, `channel_max`, `connection_timeout` and `auth_mechanism`";

fn parse_query(query: &str) -> Result<AMQPQueryString, UriError> {
    let mut parsed = AMQPQueryString::default();
    for parameter in query.split('&').filter(|each| !each.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "heartbeat" => once(
                &mut parsed.heartbeat,
                name,
                bounded(name, value, 1..=u64::from(u16::MAX), "seconds")?,
            )?,
            "frame_max" => once(
                &mut parsed.frame_max,
                name,
                bounded(name, value, FRAME_MIN..=FRAME_LIMIT, "bytes")?,
            )?,
            "channel_max" => once(
                &mut parsed.channel_max,
                name,
                bounded(name, value, 1..=u64::from(u16::MAX), "channels")?,
            )?,
            "connection_timeout" => once(
                &mut parsed.connection_timeout,
                name,
                bounded(name, value, 1..=u64::from(u32::MAX), "milliseconds")?,
            )?,
            "auth_mechanism" => once(&mut parsed.auth_mechanism, name, mechanism(value)?)?,
            "cacertfile" | "certfile" | "keyfile" => {
                return error(format!(
                    "the query parameter `{name}` is not supported: certificates are given to the \
                     builder, with `certificate_authorities` and `client_certificate`"
                ));
            }
            "verify" | "fail_if_no_peer_cert" | "server_name_indication" | "depth" => {
                return error(format!(
                    "the query parameter `{name}` is not supported: with `amqps://` the broker's \
                     certificate and its name are always verified"
                ));
            }
            unknown => return error(unknown_parameter(unknown)),
        }
    }
    Ok(parsed)
}

fn once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => error(format!("the query parameter `{name}` is given twice")),
    }
}

fn bounded<T: TryFrom<u64>>(
    name: &str,
    value: &str,
    range: RangeInclusive<u64>,
    unit: &str,
) -> Result<T, UriError> {
    let (least, most) = (*range.start(), *range.end());
    let value = number(value, range).and_then(|number| T::try_from(number).ok());
    match value {
        Some(value) => Ok(value),
        None => error(format!(
            "the query parameter `{name}` is not a number from {least} to {most} ({unit})"
        )),
    }
}

fn mechanism(value: &str) -> Result<SASLMechanism, UriError> {
    const ALL: [SASLMechanism; 5] = [
        SASLMechanism::Plain,
        SASLMechanism::AMQPlain,
        SASLMechanism::External,
        SASLMechanism::Anonymous,
        SASLMechanism::RabbitCrDemo,
    ];
    let mut all = ALL.into_iter();
    match all.find(|each| each.name().eq_ignore_ascii_case(value)) {
        Some(mechanism) => Ok(mechanism),
        None => error(
            "the query parameter `auth_mechanism` is not one of `plain`, `amqplain`, `external`, \
             `anonymous` and `rabbit-cr-demo`",
        ),
    }
}

fn unknown_parameter(name: &str) -> String {
    // Other names are not shown: they may be a part of a password that was not percent-encoded.
    let is_name = |each: char| each.is_ascii_lowercase() || each == '_';
    if name.len() <= 32 && name.chars().all(is_name) {
        format!("the query parameter `{name}` is unknown; known are {PARAMETERS}")
    } else {
        format!("a query parameter is unknown; known are {PARAMETERS}")
    }
}

/// Parses a decimal number without a sign; `None` if it is not in the range.
fn number(text: &str, range: RangeInclusive<u64>) -> Option<u64> {
    let is_decimal = !text.is_empty() && text.bytes().all(|each| each.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_decimal)?;
    range.contains(&number).then_some(number)
}

/// Decodes percent-encoding (RFC 3986, 2.1). `part` names the part of the URI in errors.
fn decode(text: &str, part: &str) -> Result<String, UriError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || {
            let byte = bytes.next()?;
            char::from(byte).to_digit(16)
        };
        let pair = (digit(), digit());
        let (Some(high), Some(low)) = pair else {
            return error(format!(
                "{part} contains a `%` without two hexadecimal digits: `%` itself is written %25"
            ));
        };
        decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    // PLAIN separates the user name from the password by a NUL (RFC 4616).
    if decoded.contains(&0) {
        return error(format!("{part} contains a NUL (%00)"));
    }
    match String::from_utf8(decoded) {
        Ok(decoded) => Ok(decoded),
        Err(_) => error(format!("{part} is not UTF-8 after percent-decoding")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(uri: &str) -> AMQPUri {
        parse(uri).unwrap_or_else(|error| panic!("{uri}: {error}"))
    }

    /// User, password, host, port and virtual host.
    fn parts(uri: &str) -> (String, String, String, u16, String) {
        let AMQPUri {
            authority:
                AMQPAuthority {
                    userinfo,
                    host,
                    port,
                },
            vhost,
            ..
        } = parsed(uri);
        let AMQPUserInfo { username, password } = userinfo;
        (username, password, host, port, vhost)
    }

    #[test]
    fn the_parts_of_a_uri() {
        for (uri, user, password, host, port, vhost) in [
            ("amqp://localhost", "guest", "guest", "localhost", 5672, "/"),
            (
                "amqps://localhost/",
                "guest",
                "guest",
                "localhost",
                5671,
                "/",
            ),
            (" AMQP://h:1/%2f\n", "guest", "guest", "h", 1, "/"),
            ("amqp://guest@h//", "guest", "guest", "h", 5672, "/"),
            ("amqp://u:@h/v", "u", "", "h", 5672, "v"),
            ("amqp://u:a:b@h/v?", "u", "a:b", "h", 5672, "v"),
            (
                "amqp://u%40:%2F%3a@h_1.x-y/a%2Fb",
                "u@",
                "/:",
                "h_1.x-y",
                5672,
                "a/b",
            ),
            (
                "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
                "usera",
                "apass",
                "hoast",
                10000,
                "v/host",
            ),
            ("amqp://h/a:b", "guest", "guest", "h", 5672, "a:b"),
            (
                "amqp://127.0.0.1:5672",
                "guest",
                "guest",
                "127.0.0.1",
                5672,
                "/",
            ),
            (
                "amqp://u:p@[2001:db8::1]:5673/v",
                "u",
                "p",
                "2001:db8::1",
                5673,
                "v",
            ),
            ("amqps://[::1]", "guest", "guest", "::1", 5671, "/"),
            (
                "amqp://[fe80::1%25eth0]",
                "guest",
                "guest",
                "fe80::1%eth0",
                5672,
                "/",
            ),
        ] {
            let expected = (user, password, host, port, vhost);
            let (user, password, host, port, vhost) = parts(uri);
            assert_eq!(
                (&*user, &*password, &*host, port, &*vhost),
                expected,
                "{uri}"
            );
        }
    }

    #[test]
    fn the_parameters_of_a_uri() {
        let query = parsed(
            "amqp://h?heartbeat=42&frame_max=4096&&channel_max=1&connection_timeout=30000\
             &auth_mechanism=External",
        )
        .query;
        let expected = AMQPQueryString {
            frame_max: Some(4096),
            channel_max: Some(1),
            heartbeat: Some(42),
            connection_timeout: Some(30_000),
            auth_mechanism: Some(SASLMechanism::External),
        };
        assert_eq!(query, expected);
        assert_eq!(parsed("amqp://h").query, AMQPQueryString::default());
    }

    #[test]
    fn a_list_is_split_where_a_scheme_follows() {
        for (list, uris) in [
            ("amqp://a", vec!["amqp://a"]),
            ("amqp://a,amqps://b", vec!["amqp://a", "amqps://b"]),
            (
                "amqp://a, AMQP://b/v,\tamqp://c",
                vec!["amqp://a", " AMQP://b/v", "\tamqp://c"],
            ),
            ("amqp://u:1,2@a", vec!["amqp://u:1,2@a"]),
            (
                "amqp://u:1,2@a,amqp://u:1,2@b",
                vec!["amqp://u:1,2@a", "amqp://u:1,2@b"],
            ),
            ("amqp://a,b", vec!["amqp://a,b"]),
            ("", vec![""]),
        ] {
            assert_eq!(split(list), uris, "{list}");
        }
    }

    fn encoded(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    proptest! {
        #[test]
        fn what_is_percent_encoded_comes_out_again(
            user in "[^\0]{1,20}",
            password in "[^\0]{0,20}",
            vhost in "[^\0/]{1,20}",
        ) {
            let (u, p, v) = (encoded(&user), encoded(&password), encoded(&vhost));
            let uri = format!("amqp://{u}:{p}@host:1/{v}");
            prop_assert_eq!(parts(&uri), (user, password, "host".to_owned(), 1, vhost));
        }

        #[test]
        fn no_text_makes_it_panic(text: String, rest in "[!-~]{0,40}") {
            let _ = (parse(&text), parse(&format!("amqp://{rest}")), split(&text));
        }
    }
}
