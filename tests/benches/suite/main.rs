//! The cost of Lepus, side by side with others, in one run: `tests/bench` starts it.
//!
//! Comparisons are lists of entries, and the entries of a comparison alternate, so that a machine
//! whose speed drifts does so for all of them: what counts is the ratio to the first entry. Each
//! entry has a client and a server in processes of their own, which are this program again with a
//! task as their argument, so that CPU and memory are told apart.

mod child;
mod comparison;
mod contenders;
mod greeting;
mod histogram;
mod load;
mod machine;
mod measure;
mod options;
mod process;
mod report;
mod rounds;
mod stage;
mod task;
mod works;

use options::Options;
use task::Task;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let [word, task] = &arguments[..]
        && word == child::WORD
    {
        let task: Task = serde_json::from_str(task).expect("a task");
        child::end_with_the_parent();
        runtime.block_on(works::perform(task));
        return;
    }
    match Options::parse(&arguments) {
        Ok(options) => {
            let done = runtime.block_on(async {
                tokio::select! {
                    done = rounds::run(&options) => done,
                    () = lepus::shutdown_signal() => Err("interrupted".into()),
                }
            });
            runtime.block_on(stage::clean_up());
            if let Err(reason) = done {
                eprintln!("{reason}");
                std::process::exit(1);
            }
        }
        Err(reason) => {
            eprintln!("{reason}\n{}", options::USAGE);
            std::process::exit(2);
        }
    }
}
