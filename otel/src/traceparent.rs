//! The headers `traceparent` and `tracestate`, in the format of W3C Trace Context.

use std::str::FromStr;

use lepus::amqp::{Table, Value};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::names::{TRACEPARENT, TRACESTATE};

/// Writes a trace into headers; `false` if it is not valid, and nothing is written.
pub(crate) fn write(context: &SpanContext, trace: &mut Table) -> bool {
    if !context.is_valid() {
        return false;
    }
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    let trace_id = context.trace_id().to_bytes();
    let span_id = context.span_id().to_bytes();
    let fields: [&[u8]; 4] = [&[0], &trace_id, &span_id, &[flags.to_u8()]];
    let mut parent = Vec::with_capacity(TRACEPARENT_LENGTH);
    for field in fields {
        if !parent.is_empty() {
            parent.push(b'-');
        }
        put_hex(&mut parent, field);
    }
    // Digits and hyphens are valid UTF-8.
    let parent = String::from_utf8(parent).unwrap_or_default();
    trace.insert(TRACEPARENT.to_owned(), parent.into());
    let state = context.trace_state().header();
    if state.is_empty() {
        // That of the trace which the span does not belong to.
        trace.remove(TRACESTATE);
    } else {
        trace.insert(TRACESTATE.to_owned(), state.into());
    }
    true
}

/// The length of a `traceparent` of version 0.
const TRACEPARENT_LENGTH: usize = 55;

/// Appends bytes as hexadecimal digits. By hand, because it is done for each message, and formatting takes ten times as
/// long.
fn put_hex(text: &mut Vec<u8>, bytes: &[u8]) {
    let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xf));
    }
}

/// Reads `traceparent`, of any version: a later one may have further fields at its end (W3C Trace Context, 3.2). `None`
/// if there is none or it is not valid.
pub(crate) fn read(trace: &Table) -> Option<SpanContext> {
    let parent = trace.get(TRACEPARENT).and_then(Value::as_str)?.trim();
    let mut rest = parent.as_bytes();
    let [version] = field(&mut rest, false)?;
    let trace_id = TraceId::from_bytes(field(&mut rest, true)?);
    let span_id = SpanId::from_bytes(field(&mut rest, true)?);
    let [flags] = field(&mut rest, true)?;
    let is_well = match (version, rest.first()) {
        (0xff, _) => false,
        (_, None) => true,
        (version, Some(next)) => version > 0 && *next == b'-',
    };
    if !is_well {
        return None;
    }
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    let state = trace.get(TRACESTATE).and_then(Value::as_str);
    // A state that is not valid does not make the parent so.
    let state = state.and_then(|state| TraceState::from_str(state).ok());
    let context = SpanContext::new(trace_id, span_id, flags, true, state.unwrap_or_default());
    context.is_valid().then_some(context)
}

/// Takes a field of so many bytes as lower-case hexadecimal digits from the start of a text, after a `-` unless it is
/// the first one.
fn field<const N: usize>(rest: &mut &[u8], is_further: bool) -> Option<[u8; N]> {
    let mut text = *rest;
    if is_further {
        text = text.strip_prefix(b"-")?;
    }
    let (digits, after) = text.split_at_checked(2 * N)?;
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn table(headers: &[(&str, &str)]) -> Table {
        let headers = headers.iter();
        headers
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect()
    }

    #[test]
    fn a_trace_is_written_as_it_was_read() {
        let headers = table(&[(TRACEPARENT, PARENT), (TRACESTATE, "hare=1,fox=2")]);
        let context = read(&headers).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        let mut written = table(&[(TRACEPARENT, "other"), ("baggage", "x=y")]);
        assert!(write(&context, &mut written));
        assert_eq!(written.remove("baggage"), Some("x=y".into()));
        assert_eq!(written, headers);

        let unsampled = read(&table(&[(TRACEPARENT, &PARENT.replace("-01", "-00"))])).unwrap();
        assert!(write(&unsampled, &mut written));
        assert_eq!(
            written,
            table(&[(TRACEPARENT, &PARENT.replace("-01", "-00"))])
        );
    }

    #[test]
    fn no_trace_is_not_written() {
        let mut headers = table(&[(TRACEPARENT, PARENT), (TRACESTATE, "hare=1")]);
        assert!(!write(&SpanContext::empty_context(), &mut headers));
        assert_eq!(
            headers,
            table(&[(TRACEPARENT, PARENT), (TRACESTATE, "hare=1")])
        );
    }

    #[test]
    fn a_later_version_may_have_more_fields() {
        let later = format!("{}-more", PARENT.replacen("00", "cc", 1));
        let context = read(&table(&[(TRACEPARENT, &later)])).unwrap();
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        let with_bad_state = table(&[(TRACEPARENT, PARENT), (TRACESTATE, "\u{7}")]);
        assert!(read(&with_bad_state).is_some());
    }

    #[test]
    fn what_is_no_trace_is_ignored() {
        for wrong in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-more"),
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace('b', "g"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert!(read(&table(&[(TRACEPARENT, wrong)])).is_none(), "{wrong}");
        }
        assert!(read(&Table::new()).is_none());
        let number = Table::from([(TRACEPARENT.to_owned(), Value::Int(7))]);
        assert!(read(&number).is_none());
    }
}
