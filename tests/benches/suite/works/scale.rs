//! Whether many of something cost more each: methods, services, calls that wait.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lepus::{
    Codec, Server,
    rpc::{
        BoxFuture, Client, MethodDescriptor, Never, Reply, Request, Service, ServiceDescriptor,
        ServiceOptions,
    },
};

use lepus_tests::naive;

use crate::contenders::lepus as ours;
use crate::load::Operation;
use crate::measure::{Figure, Sample};
use crate::process;
use crate::task::Task;

/// Calls to one service before the next one's turn: with a few each, a server would have nothing to
/// acknowledge together, and that is what would be measured.
const TURN: usize = 100;

/// Echoes whatever method is called, with this concurrency.
struct Mirror(&'static ServiceDescriptor, u16);

impl Service for Mirror {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.0
    }

    fn options(&self) -> ServiceOptions {
        ServiceOptions::new().concurrency(self.1)
    }

    fn call(&self, request: Request) -> BoxFuture<Reply> {
        Box::pin(async move {
            match request.decode::<Vec<u8>>() {
                Ok(payload) => request.value(&payload),
                Err(refusal) => refusal,
            }
        })
    }
}

/// The descriptor that the macro would generate, for a service that only a program would write.
fn described(name: String, methods: usize) -> &'static ServiceDescriptor {
    let methods = (0..methods).map(|id| {
        let name = Box::leak(format!("method-{id}").into_boxed_str());
        MethodDescriptor::new(id, name).timeout_millis(60_000)
    });
    let methods = Vec::leak(methods.collect());
    let name = Box::leak(name.into_boxed_str());
    Box::leak(Box::new(
        ServiceDescriptor::new(name, methods).codec(Codec::Bytes),
    ))
}

fn services(count: usize) -> impl Iterator<Item = &'static ServiceDescriptor> {
    (0..count).map(|number| described(service_name(number), 1))
}

pub fn service_name(number: usize) -> String {
    format!("echo-{number}")
}

pub async fn serve_methods(task: &Task, count: usize) -> String {
    serve(task, [described("echo".into(), count)]).await
}

pub async fn serve_services(task: &Task, count: usize) -> String {
    serve(task, services(count)).await
}

async fn serve(
    task: &Task,
    services: impl IntoIterator<Item = &'static ServiceDescriptor>,
) -> String {
    let mut server = Server::new(&ours::connect(task).await);
    for descriptor in services {
        server = server.serve(Mirror(descriptor, task.case.prefetch));
    }
    // It serves for as long as the process lives.
    std::mem::forget(server.start().await.expect("a server"));
    String::new()
}

pub async fn call_methods(task: &Task, count: usize) -> Operation {
    let connection = ours::connect(task).await;
    let descriptor = described("echo".into(), count);
    let client = Client::new(&connection, descriptor);
    let methods = descriptor.methods().iter();
    call_each(task, methods.map(|method| (client.clone(), method)), 1)
}

pub async fn call_services(task: &Task, count: usize) -> Operation {
    let connection = ours::connect(task).await;
    let targets = services(count).flat_map(|descriptor| {
        let client = Client::new(&connection, descriptor);
        let methods = descriptor.methods().iter();
        methods.map(move |method| (client.clone(), method))
    });
    call_each(task, targets, TURN)
}

fn call_each(
    task: &Task,
    targets: impl Iterator<Item = (Client, &'static MethodDescriptor)>,
    turn: usize,
) -> Operation {
    let (targets, next): (Vec<_>, _) = (targets.collect(), AtomicUsize::new(0));
    let payload = task.payload();
    Operation::new(move || {
        let (client, method) = &targets[next.fetch_add(1, Relaxed) / turn % targets.len()];
        let call = client.call::<_, Vec<u8>, Never>(method, &payload);
        let size = payload.len();
        async move { assert_eq!(call.await.expect("a reply").len(), size) }
    })
}

/// Calls that nobody answers, and what they take of this process.
pub async fn waiting(task: &Task, count: usize) -> Sample {
    let raw = naive::connect(&task.address).await;
    let channel = raw.create_channel().await.expect("a channel");
    naive::declare(&channel, &task.name("echo")).await;
    raw.close(200, "".into()).await.expect("a connection");
    let connection = ours::connect(task).await;
    let descriptor = described("echo".into(), 1);
    let client = Client::builder(&connection, descriptor)
        .max_in_flight(count + 1)
        .build();
    let method = &descriptor.methods()[0];
    let payload = task.payload();
    let send = || client.call::<_, Vec<u8>, Never>(method, &payload).send();
    // The reply queue and all that is made once.
    let first = send().await.expect("a call");
    let me = std::process::id();
    let before = process::resident(me).unwrap_or(f64::NAN);
    let mut calls = Vec::with_capacity(count);
    for _ in 0..count {
        calls.push(send().await.expect("a call"));
    }
    let after = process::resident(me).unwrap_or(f64::NAN);
    drop((calls, first));
    Sample::from([
        (Figure::ClientBytes, before),
        (Figure::BytesInFlight, (after - before) / count as f64),
    ])
}
