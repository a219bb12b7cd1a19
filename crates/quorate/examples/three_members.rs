//! Three members in this process; one stops, and the cluster goes on:
//! `cargo run -p quorate --example three_members`.

use std::net::TcpListener;

use quorate::{Client, Config, Server};

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Error> {
    // The members have to know each other's peer ports beforehand; those of clients may be any that are free.
    let ports = free_ports(3)?;
    let url = |port: &u16| format!("http://127.0.0.1:{port}");
    let founders: Vec<String> =
        ports.iter().zip(1..).map(|(port, number)| format!("m{number}={}", url(port))).collect();
    let mut members = Vec::new();
    for (port, number) in ports.iter().zip(1..) {
        let config = Config::new(format!("m{number}"))
            .memory_only()
            .listen_client_urls(["http://127.0.0.1:0"])
            .listen_peer_urls([url(port)])
            .initial_cluster(founders.join(","));
        members.push(Server::start(config)?);
    }
    for member in &members {
        member.ready().await?;
    }

    let client = Client::new(members.iter().map(|member| member.client_addrs()[0].to_string()))?;
    client.put("color/sky", "blue").await?;
    println!("three members: color/sky = {}", read(&client).await?);

    members.remove(0).shutdown().await;
    client.put("color/sky", "red").await?;
    println!("two members:   color/sky = {}", read(&client).await?);

    for member in members {
        member.shutdown().await;
    }
    Ok(())
}

async fn read(client: &Client) -> Result<String, Error> {
    let found = client.get("color/sky").await?.ok_or("color/sky is gone")?;
    Ok(String::from_utf8_lossy(&found.value).into_owned())
}

/// Ports that are free now.
fn free_ports(count: usize) -> Result<Vec<u16>, Error> {
    let taken: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(taken.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<std::io::Result<_>>()?)
}
