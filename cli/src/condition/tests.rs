//! Conditions hold as they are written, and what is none is told with its column.

use std::time::Duration;

use super::*;

/// A letter.
fn letter(field: &Field) -> Option<Value> {
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    match field {
        Field::Id => text("job-7"),
        Field::Reason => text("attempts"),
        Field::Error => text("the disk is \"busy\" (again)"),
        Field::Attempts => text("5"),
        Field::Age => Some(Value::Time(Duration::from_secs(7200))),
        Field::Header(name) if name == "tenant-id" => text("hare"),
        Field::Header(name) if name == "size" => text("640"),
        Field::Body(path) if path == &["user", "id"] => text("9007199254740993"),
        Field::Body(path) if path == &["ratio"] => text("0.5"),
        Field::Body(path) if path.is_empty() => text(r#"{"user":{"id":9007199254740993}}"#),
        _ => None,
    }
}

fn holds(text: &str) -> bool {
    let condition: Condition = text
        .parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    condition.holds(&letter)
}

fn error(text: &str) -> (usize, String) {
    let error = text.parse::<Condition>().expect_err(text);
    (error.column, error.text)
}

#[test]
fn comparisons_hold_or_not() {
    for (text, expected) in [
        ("reason==attempts", true),
        ("reason == 'attempts'", true),
        ("reason!=attempts", false),
        ("reason==attempt", false),
        (r#"error~"busy""#, true),
        (r#"error~"\"busy\"""#, true),
        ("error !~ disk", false),
        ("attempts==5", true),
        ("attempts==5.0", true),
        ("attempts>=5", true),
        ("attempts<5", false),
        ("attempts > 4.5", true),
        ("age>1h", true),
        ("age<=90m", false),
        ("header.tenant-id==hare", true),
        ("header.size>=640", true),
        ("header.size<1e3", true),
        ("body.user.id==9007199254740993", true),
        // Without rounding.
        ("body.user.id==9007199254740992", false),
        ("body.user.id>9007199254740992", true),
        ("body.ratio==.5", true),
        ("body~user", true),
    ] {
        assert_eq!(holds(text), expected, "{text}");
    }
}

#[test]
fn a_field_that_is_not_there_equals_nothing() {
    for (text, expected) in [
        ("task==resize", false),
        ("task!=resize", true),
        ("task~resize", false),
        ("task!~resize", true),
        ("header.none<1", false),
        ("!(header.none<1)", true),
        ("task==''", false),
    ] {
        assert_eq!(holds(text), expected, "{text}");
    }
}

#[test]
fn conditions_are_joined() {
    for (text, expected) in [
        ("reason==attempts && error~busy", true),
        ("reason==attempts&&error~idle", false),
        ("reason==expired || error~busy", true),
        // `&&` binds tighter.
        ("reason==attempts || reason==expired && error~idle", true),
        ("(reason==attempts || reason==expired) && error~idle", false),
        ("!reason==attempts", false),
        ("!!(reason==attempts)", true),
        ("!(reason==attempts && error~idle) && attempts==5", true),
    ] {
        assert_eq!(holds(text), expected, "{text}");
    }
}

#[test]
fn a_mistake_is_told_with_its_column() {
    for (text, column, word) in [
        ("", 1, "ends"),
        ("reason", 7, "operator"),
        ("reason==", 9, "a value"),
        ("reason=attempts", 7, "write `==`"),
        ("reason==attempts & error~x", 18, "write `&&`"),
        ("reason==attempts | error~x", 18, "write `||`"),
        ("reason==attempts error~x", 18, "`error`"),
        ("(reason==attempts", 18, "`)`"),
        ("reason==attempts)", 17, "`)`"),
        ("resaon==attempts", 1, "`resaon` is no field"),
        ("reason==\"attempts", 9, "no end"),
        ("reason < 3", 10, "text"),
        ("attempts==many", 11, "no number"),
        ("header.size<big", 13, "`big` is none"),
        ("age>old", 5, "no time"),
        ("age==2h", 6, "<, <="),
        ("häse==1", 1, "`häse` is no field"),
        ("error~ä && x==1", 12, "`x` is no field"),
        ("reason==,", 9, "`,` has no meaning"),
        ("body.==1", 1, "no field"),
        ("header.==1", 1, "no field"),
        ("\"reason\"==1", 1, "a text in quotes"),
        ("reason==&&", 9, "`&&`"),
    ] {
        let (at, said) = error(text);
        assert_eq!(at, column, "{text}: {said}");
        assert!(said.contains(word), "{text}: {said}");
    }
}

#[test]
fn depth_is_limited() {
    let deep = format!("{}reason==x", "!".repeat(100_000));
    assert!(error(&deep).1.contains("nested"));
    let deep = "(".repeat(100_000);
    assert!(error(&deep).1.contains("nested"));
}
