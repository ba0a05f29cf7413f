use lepus::Incoming;

struct Row;

#[lepus::service]
trait Service {
    async fn import(&self, rows: Incoming<Row>);
}

fn main() {}
