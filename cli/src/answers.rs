//! Answers of running programs to questions: collected in a stable order, and none left out without a word.

use lepus::control::{Answer, Answers, Pong, Question, ServiceHealth, ServiceInfo, ServiceStats};

use crate::exit::Exit;
use crate::failure::{Failure, with_causes};
use crate::output::note;

/// An answer that names what it is about.
pub(crate) trait About {
    /// The name and the instance.
    fn names(&self) -> (&str, &str);
}

macro_rules! about {
    ($($answer:ty),*) => {
        $(impl About for $answer {
            fn names(&self) -> (&str, &str) {
                (&self.name, &self.id)
            }
        })*
    };
}

about!(Pong, ServiceHealth, ServiceInfo, ServiceStats);

/// Collects all answers, in the order of their names and instances. One that cannot be read is a note on stderr.
///
/// # Errors
/// The question could not be asked, or the connection was lost.
pub(crate) async fn collect<A: About>(
    asked: Result<Answers<A>, lepus::Error>,
) -> Result<Vec<Answer<A>>, Failure> {
    let mut answers = asked?;
    let mut collected: Vec<Answer<A>> = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(answer) => collected.push(answer),
            Err(error) if error.is_decode() => {
                note(&format!(
                    "warning: an answer cannot be read: {}",
                    with_causes(&error)
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    collected.sort_by(|a, b| a.names().cmp(&b.names()));
    Ok(collected)
}

/// A question about what has this name, or about all, for so many answers, or for all that come.
pub(crate) fn narrowed<A>(
    mut question: Question<A>,
    name: Option<&str>,
    expected: Option<usize>,
) -> Question<A> {
    if let Some(name) = name {
        question = question.of(name);
    }
    match expected {
        Some(count) => question.expect(count),
        None => question,
    }
}

/// The failure of a question that nobody answered.
pub(crate) fn nobody(name: Option<&str>) -> Failure {
    let text = match name {
        Some(name) => format!("nobody serves `{name}`"),
        None => "nobody serves anything".to_owned(),
    };
    Failure::new(Exit::Unserved, text)
}
