//! Durations in attributes: `"250ms"`, `"2s"`, `"5m"`, `"1h"`.

/// The longest `expiration` that RabbitMQ accepts.
const MAX_MILLIS: u64 = 4_294_967_295;

/// Parses a duration into milliseconds. The error tells what to write instead.
pub(crate) fn parse_millis(text: &str) -> Result<u64, String> {
    const HINT: &str = r#"write a number and a unit: "250ms", "2s", "5m", "1h""#;

    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("`{text}` is not a duration: {HINT}")),
    };
    if number.is_empty() {
        return Err(format!("`{text}` is not a duration: {HINT}"));
    }
    // There are only digits, so that a parse error means that the number is too large.
    let millis = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    match millis {
        Some(0) => Err(format!("a timeout cannot be zero: {HINT}")),
        Some(millis) if millis <= MAX_MILLIS => Ok(millis),
        _ => Err(format!(
            "`{text}` is too long: RabbitMQ allows {MAX_MILLIS} ms, about 49 days"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse_millis("250ms"), Ok(250));
        assert_eq!(parse_millis("2s"), Ok(2_000));
        assert_eq!(parse_millis("5m"), Ok(300_000));
        assert_eq!(parse_millis("1h"), Ok(3_600_000));
        assert_eq!(parse_millis("4294967295ms"), Ok(MAX_MILLIS));
    }

    #[test]
    fn mistakes_get_the_hint() {
        for bad in ["", "2", "s", "2x", "2 s", "1.5s", "-1s", "2S", "²s"] {
            let why = parse_millis(bad).unwrap_err();
            assert!(why.contains("write a number and a unit"), "{bad}: {why}");
        }
        assert!(parse_millis("0s").unwrap_err().contains("zero"));
        for long in [
            "4294967296ms",
            "1200h",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(
                parse_millis(long).unwrap_err().contains("too long"),
                "{long}"
            );
        }
    }
}
