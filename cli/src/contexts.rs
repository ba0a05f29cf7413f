//! Contexts: names for the URLs of brokers, in a file of the user.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::failure::Failure;

/// The context that is used if no other is named.
pub(crate) const DEFAULT: &str = "default";

/// The URL of a context. No error text has a URL, because it may contain a password.
///
/// # Errors
/// The file cannot be read or has a wrong line, or there is no such context.
pub(crate) fn url(name: &str) -> Result<String, Failure> {
    let path = path().ok_or_else(|| {
        Failure::usage("neither XDG_CONFIG_HOME nor HOME is set, so there is no contexts file")
    })?;
    let shown = path.display();
    let Some(text) = read(&path)? else {
        return Err(Failure::usage(format!(
            "there is no context `{name}`, because there is no file {shown}"
        )));
    };
    find(&text, name)
        .map_err(|line| Failure::usage(format!("{shown}, line {line}: write `name = URL`")))?
        .ok_or_else(|| Failure::usage(format!("{shown} has no context `{name}`")))
}

/// The URL of the context `default`, if there is one.
///
/// # Errors
/// The file cannot be read, or has a wrong line.
pub(crate) fn default_url() -> Result<Option<String>, Failure> {
    let Some(path) = path() else { return Ok(None) };
    let Some(text) = read(&path)? else {
        return Ok(None);
    };
    let shown = path.display();
    find(&text, DEFAULT)
        .map_err(|line| Failure::usage(format!("{shown}, line {line}: write `name = URL`")))
}

fn path() -> Option<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("lepus").join("contexts"))
}

fn read(path: &PathBuf) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let path = path.display();
            Err(Failure::usage(format!("{path} cannot be read: {error}")))
        }
    }
}

/// The URL of a name in the text of a contexts file, or the number of its first wrong line.
fn find(text: &str, wanted: &str) -> Result<Option<String>, usize> {
    let mut found = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, url) = line.split_once('=').ok_or(index + 1)?;
        let (name, url) = (name.trim(), url.trim());
        if name.is_empty() || url.is_empty() || name.contains(char::is_whitespace) {
            return Err(index + 1);
        }
        if name == wanted && found.is_none() {
            found = Some(url.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_found_by_its_name() {
        let text = "# brokers\n\nprod = amqps://u:p=q@host/x\n local=amqp://localhost\nlocal = amqp://other\n";
        assert_eq!(
            find(text, "prod"),
            Ok(Some("amqps://u:p=q@host/x".to_owned()))
        );
        assert_eq!(find(text, "local"), Ok(Some("amqp://localhost".to_owned())));
        assert_eq!(find(text, "test"), Ok(None));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for wrong in ["prod", "= amqp://host", "prod =", "two words = amqp://host"] {
            assert_eq!(
                find(&format!("a = amqp://a\n{wrong}\n"), "a"),
                Err(2),
                "{wrong}"
            );
        }
    }
}
