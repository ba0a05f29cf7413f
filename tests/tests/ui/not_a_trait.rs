#[lepus::service]
struct Calculator;

#[lepus::tasks]
impl Calculator {}

fn main() {}
