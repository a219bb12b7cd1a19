//! A network for each member, with this process in the middle.
//!
//! The run starts itself again in a network and a mount namespace of its own (`unshare`, as root or with a mapped user
//! where the system allows that), so nothing of the machine is changed and nothing is left behind. Each member's network
//! lives as long as a process that waits in it, and that one ends with its standard input, which we hold. Links are
//! routing rules here: a packet that one forbids is dropped on its way, without a word to who sent it. What a member sends
//! and gets, clients included, can be delayed where the kernel has `netem`, else made to squeeze through a narrow link.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use quorate_interop::{Home, wait_until};

use super::network::Link;
use crate::tools::output;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Rules come before those that the system has.
const RULE_FIRST: usize = 1000;
const RULE_STRIDE: usize = 16;

#[derive(Debug)]
pub struct Namespaces {
    /// What holds each member's network.
    holders: Vec<Child>,
    cut: Vec<(usize, usize)>,
    /// What makes an interface slow; `None` where the kernel has nothing for it.
    slow: Option<&'static str>,
}

/// Ways to make an interface slow, as `tc` wants them, the best first.
const SLOW: [&str; 2] = ["netem delay 60ms 20ms", "tbf rate 400kbit burst 16kb latency 400ms"];

/// `unshare` with what makes it work for whoever runs us; `None` where it does not.
pub fn unshare() -> Option<Vec<&'static str>> {
    const NEEDED: [&str; 4] = ["unshare", "nsenter", "ip", "mount"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !NEEDED.iter().all(there) {
        return None;
    }
    let ways: [&[&str]; 2] =
        [&["unshare", "--net", "--mount"], &["unshare", "--map-root-user", "--net", "--mount"]];
    ways.into_iter().map(<[&str]>::to_vec).find(|way| {
        // What a run needs most: a second network inside, a pair of interfaces, a rule, a file system in memory.
        let trial = "ip link set lo up && ip link add va type veth peer name vb \
                     && ip rule add pref 1000 from 10.77.1.2 blackhole && echo 1 > /proc/sys/net/ipv4/ip_forward \
                     && mount -t tmpfs none /mnt && unshare --net true && nsenter --net=/proc/self/ns/net true";
        output(Command::new(way[0]).args(&way[1..]).args(["sh", "-c", trial])).is_ok()
    })
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    output(Command::new("ip").args(arguments.split(' '))).map(drop)
}

fn tc(arguments: &str) -> anyhow::Result<()> {
    output(Command::new("tc").args(arguments.split(' '))).map(drop)
}

impl Namespaces {
    /// Makes the networks of `size` members. To be called in a namespace of our own.
    pub fn new(size: usize) -> anyhow::Result<Self> {
        ip("link set lo up")?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward packets")?;
        let slow = SLOW.into_iter().find(|how| tc(&format!("qdisc add dev lo root {how}")).is_ok());
        if slow.is_some() {
            tc("qdisc del dev lo root")?;
        }
        let mut made = Self { holders: Vec::new(), cut: Vec::new(), slow };
        for place in 0..size {
            made.add(place).with_context(|| format!("the network of m{}", place + 1))?;
        }
        Ok(made)
    }

    fn add(&mut self, place: usize) -> anyhow::Result<()> {
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start what holds it")?;
        let pid = holder.id();
        self.holders.push(holder);
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        wait_until("a network of its own", || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|its| its != ours)
        })?;
        let number = place + 1;
        ip(&format!("link add v{number} type veth peer name eth0 netns {pid}"))?;
        ip(&format!("address add 10.77.{number}.1/24 dev v{number}"))?;
        ip(&format!("link set v{number} up"))?;
        for inside in [
            "link set lo up".to_owned(),
            format!("address add {}/24 dev eth0", address(place)),
            "link set eth0 up".to_owned(),
            format!("route add default via 10.77.{number}.1"),
        ] {
            self.inside(place, &format!("ip {inside}"))?;
        }
        Ok(())
    }

    /// Runs a command in a member's network.
    fn inside(&self, place: usize, command: &str) -> anyhow::Result<()> {
        let launcher = self.launcher(place);
        output(Command::new(&launcher[0]).args(&launcher[1..]).args(command.split(' '))).map(drop)
    }

    pub fn slows(&self) -> bool {
        self.slow.is_some()
    }

    /// Makes all slow that a member sends and gets, or as fast again as it was.
    pub fn slow(&self, place: usize, slow: bool) -> anyhow::Result<()> {
        let how = self.slow.context("the kernel has nothing that makes a link slow")?;
        // The interface here carries what is sent to the member, the one inside what it sends.
        let change = |interface: &str| {
            if slow {
                format!("qdisc replace dev {interface} root {how}")
            } else {
                format!("qdisc del dev {interface} root")
            }
        };
        tc(&change(&format!("v{}", place + 1)))?;
        self.inside(place, &format!("tc {}", change("eth0")))
    }

    fn launcher(&self, place: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.holders[place].id())]
    }

    pub fn home(&self, place: usize, data_dir: PathBuf) -> Home {
        let peer = format!("{}:{PEER_PORT}", address(place));
        Home {
            client: format!("{}:{CLIENT_PORT}", address(place)),
            peer_listen: peer.clone(),
            peer,
            data_dir,
            launcher: self.launcher(place),
        }
    }

    pub fn set(&mut self, from: usize, to: usize, link: Link) -> anyhow::Result<()> {
        let was_cut = self.cut.contains(&(from, to));
        let preference = RULE_FIRST + from * RULE_STRIDE + to;
        match link {
            Link::Cut if !was_cut => {
                let (from_address, to_address) = (address(from), address(to));
                ip(&format!("rule add pref {preference} from {from_address} to {to_address} blackhole"))?;
                self.cut.push((from, to));
            }
            Link::Open if was_cut => {
                ip(&format!("rule del pref {preference}"))?;
                self.cut.retain(|&pair| pair != (from, to));
            }
            Link::Slow(_) => bail!("single links cannot be slow here"),
            Link::Cut | Link::Open => {}
        }
        Ok(())
    }
}

fn address(place: usize) -> String {
    format!("10.77.{}.2", place + 1)
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}
