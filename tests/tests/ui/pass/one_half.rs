//! With one half, the names of the other stay free.

#[lepus::service(client)]
pub trait Called {
    async fn call(&self);
}

#[lepus::service(server)]
pub trait Served {
    async fn call(&self);
}

#[lepus::tasks(worker)]
pub trait Worked {
    async fn run(&self);
}

#[allow(dead_code)]
struct CalledServer;
#[allow(dead_code)]
struct ServedClient;
#[allow(dead_code)]
struct WorkedProducer;

fn main() {
    let _ = CalledClient::DESCRIPTOR;
    let _ = ServedServer::<()>::DESCRIPTOR;
    let _ = WorkedWorker::<()>::DESCRIPTOR;
}
