#[lepus::service(codec = "text")]
trait Text {
    async fn call(&self, line: String);
}

#[lepus::service(codec = "bytes")]
trait Bytes {
    async fn call(&self, bytes: Vec<u8>);
}

fn main() {}
