//! The headers `traceparent` and `tracestate`, in the format of W3C Trace Context.

use std::str::FromStr;

use lepus::observe::TraceHeaders;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Writes a trace into headers; `false` if it is not valid, and nothing is written.
pub(crate) fn write(context: &SpanContext, trace: &mut TraceHeaders) -> bool {
    if !context.is_valid() {
        return false;
    }
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
    put_hex(&mut parent[3..35], &context.trace_id().to_bytes());
    put_hex(&mut parent[36..52], &context.span_id().to_bytes());
    put_hex(&mut parent[53..], &[flags.to_u8()]);
    // Digits and hyphens are valid UTF-8.
    let parent = std::str::from_utf8(&parent).unwrap_or_default();
    // An empty state replaces that of the trace which the span does not belong to.
    trace.set(parent, &context.trace_state().header());
    true
}

/// The hexadecimal digits of each byte. Tables, because this is done for each message.
const DIGITS: [[u8; 2]; 256] = {
    let letters = b"0123456789abcdef";
    let (mut table, mut byte) = ([[0; 2]; 256], 0);
    while byte < table.len() {
        table[byte] = [letters[byte >> 4], letters[byte & 0xf]];
        byte += 1;
    }
    table
};

/// Larger than the value of any digit.
const NO_DIGIT: u8 = 0xff;

/// The value of each letter that is a lower-case hexadecimal digit.
const VALUES: [u8; 256] = {
    let (mut table, mut digit) = ([NO_DIGIT; 256], 0);
    while digit < 16 {
        table[DIGITS[digit as usize][1] as usize] = digit;
        digit += 1;
    }
    table
};

/// Writes bytes as hexadecimal digits.
fn put_hex(text: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&DIGITS[usize::from(*byte)]);
    }
}

/// Reads `traceparent`, of any version: a later one may have further fields at its end (W3C Trace Context, 3.2). `None`
/// if there is none or it is not valid.
pub(crate) fn read(trace: &TraceHeaders) -> Option<SpanContext> {
    let parent = trace.parent()?.trim();
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
    // A state that is not valid does not make the parent so.
    let state = trace
        .state()
        .and_then(|state| TraceState::from_str(state).ok());
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
    let (mut bytes, mut all) = ([0; N], 0);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        let (high, low) = (VALUES[usize::from(high)], VALUES[usize::from(low)]);
        all |= high | low;
        *byte = high << 4 | low;
    }
    if all > 0xf {
        return None;
    }
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{TRACEPARENT, TRACESTATE};
    use lepus::amqp::{Table, Value};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn trace(headers: &[(&str, &str)]) -> TraceHeaders {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).into()));
        headers.collect::<Table>().into()
    }

    #[test]
    fn a_trace_is_written_as_it_was_read() {
        let headers = trace(&[(TRACEPARENT, PARENT), (TRACESTATE, "hare=1,fox=2")]);
        let context = read(&headers).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        let mut written = trace(&[(TRACEPARENT, "other"), ("baggage", "x=y")]);
        assert!(write(&context, &mut written));
        let expected = [
            (TRACEPARENT, PARENT),
            (TRACESTATE, "hare=1,fox=2"),
            ("baggage", "x=y"),
        ];
        assert_eq!(written, trace(&expected));

        let unsampled = read(&trace(&[(TRACEPARENT, &PARENT.replace("-01", "-00"))])).unwrap();
        assert!(write(&unsampled, &mut written));
        assert_eq!(
            written,
            trace(&[
                (TRACEPARENT, &PARENT.replace("-01", "-00")),
                ("baggage", "x=y")
            ])
        );
    }

    #[test]
    fn no_trace_is_not_written() {
        let mut headers = trace(&[(TRACEPARENT, PARENT), (TRACESTATE, "hare=1")]);
        assert!(!write(&SpanContext::empty_context(), &mut headers));
        assert_eq!(
            headers,
            trace(&[(TRACEPARENT, PARENT), (TRACESTATE, "hare=1")])
        );
    }

    #[test]
    fn a_later_version_may_have_more_fields() {
        let later = format!("{}-more", PARENT.replacen("00", "cc", 1));
        let context = read(&trace(&[(TRACEPARENT, &later)])).unwrap();
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        let with_bad_state = trace(&[(TRACEPARENT, PARENT), (TRACESTATE, "\u{7}")]);
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
            assert!(read(&trace(&[(TRACEPARENT, wrong)])).is_none(), "{wrong}");
        }
        assert!(read(&TraceHeaders::new()).is_none());
        let number = Table::from([(TRACEPARENT.to_owned(), Value::Int(7))]);
        assert!(read(&number.into()).is_none());
    }
}
