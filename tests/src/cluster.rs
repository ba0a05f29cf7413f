//! Private RabbitMQ nodes that are one broker: each has its own name, ports and data.

use crate::eventually::within;
use crate::node::Node;
use std::time::Duration;

/// A node that was killed joins the others again within this, on a busy machine.
const REJOIN: Duration = Duration::from_secs(120);

/// A cluster; it ends with the test.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts so many nodes and joins them.
    pub async fn start(nodes: usize) -> Cluster {
        let mut cluster = Cluster {
            nodes: vec![Node::start().await],
        };
        while cluster.nodes.len() < nodes {
            let first = &cluster.nodes[0];
            let next = Node::setup().beside(first).start().await;
            next.ctl(&["stop_app"]).await;
            next.ctl(&["join_cluster", &first.name()]).await;
            next.ctl(&["start_app"]).await;
            cluster.nodes.push(next);
        }
        cluster
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All addresses, that of one node first.
    pub fn uri_from(&self, first: usize) -> String {
        let nodes = self.nodes.iter().cycle().skip(first);
        let uris: Vec<&str> = nodes.take(self.nodes.len()).map(Node::uri).collect();
        uris.join(",")
    }

    /// Which node leads a quorum queue, as another one (or any, without `but`) sees it.
    pub async fn leader(&self, queue: &str, but: Option<usize>) -> Option<usize> {
        let leader = self.column("leader", queue, but).await?;
        self.nodes.iter().position(|node| node.name() == leader)
    }

    /// The nodes where a quorum queue's members are up.
    pub async fn online(&self, queue: &str) -> Vec<usize> {
        let online = self.column("online", queue, None).await;
        let online = online.unwrap_or_default();
        let all = 0..self.nodes.len();
        all.filter(|node| online.contains(&self.nodes[*node].name()))
            .collect()
    }

    /// Waits until all members of a quorum queue are up.
    pub async fn is_whole(&self, queue: &str) {
        within(&format!("all members of {queue}"), REJOIN, || async {
            let online = self.online(queue).await;
            if online.len() == self.nodes.len() {
                Ok(())
            } else {
                Err(format!("{online:?}"))
            }
        })
        .await;
    }

    async fn column(&self, column: &str, queue: &str, but: Option<usize>) -> Option<String> {
        let asked = usize::from(but == Some(0));
        let list = self.nodes[asked]
            .ctl(&["list_queues", "name", column])
            .await;
        let cells = list.lines().filter_map(|line| line.split_once('\t'));
        let mut found = cells.filter(|(name, _)| *name == queue);
        found.next().map(|(_, cell)| cell.to_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The first one has the port mapper of all.
        while self.nodes.pop().is_some() {}
    }
}
