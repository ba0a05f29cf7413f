//! A program that drains nothing of Lepus's: it prints a line at the first and at the second signal, and goes on.

#[tokio::main]
async fn main() {
    let (first, second) = (lepus::shutdown_signal(), lepus::second_signal());
    println!("ready");
    first.await;
    println!("first");
    second.await;
    println!("second");
    std::future::pending::<()>().await;
}
