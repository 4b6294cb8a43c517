//! What `check` says of a connection, and what becomes of one: in each situation both are asked, and have to agree.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use berth_netns::netlink::{RouteSocket, add_route};
use berth_netns::{
    AttachRequest, AttachmentMode, Endpoint, Explanation, HostPort, METADATA_ADDRESS,
    METADATA_PORT, Network, NetworkConfig, Peer, PortProtocol, Protocol, PublishedPort, Question,
    Rule, SecurityGroup, SecurityGroupId, Snapshot, Traffic, Verdict,
};

use ipnet::Ipv4Net;

use crate::Case;
use crate::firewall::plain;
use crate::leaks::nft;
use crate::world::{
    Attempt, HOST, HOST6, OUTSIDE, OUTSIDE6, PATIENCE, Reached, Task, World, arrives, briefly,
    connect, inside, listen_in, receive, request,
};

/// IPv4 and IPv6.
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 2);
const INSTANCE_METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

pub fn cases() -> Vec<Case> {
    vec![
        (
            "it_agrees_with_traffic_in_the_default_group",
            the_default_group,
        ),
        (
            "it_names_the_rule_of_the_group_that_decides",
            rules_of_groups,
        ),
        (
            "it_sees_what_is_missing_of_links_tables_and_forwarding",
            what_is_missing,
        ),
        (
            "it_names_somebody_elses_chain_that_drops",
            somebody_elses_chain,
        ),
        ("it_follows_public_addresses", public_addresses),
        (
            "it_sees_rules_that_are_not_those_of_the_file",
            rules_of_another_file,
        ),
    ]
}

/// Who sends.
#[derive(Clone, Copy)]
enum From<'a> {
    Task(&'a Task),
    Host,
    Outside,
}

/// What is asked, what is expected of it, and a word that the explanation must have.
struct Situation<'a> {
    from: From<'a>,
    to: Endpoint,
    /// Where the connection goes that is really made.
    really: SocketAddr,
    traffic: Traffic,
    verdict: Verdict,
    says: &'a str,
}

fn tcp<'a>(
    from: From<'a>,
    to: impl Into<IpAddr>,
    port: u16,
    verdict: Verdict,
    says: &'a str,
) -> Situation<'a> {
    let to = to.into();
    Situation {
        from,
        to: Endpoint::Address(to),
        really: SocketAddr::new(to, port),
        traffic: Traffic::Tcp(port),
        verdict,
        says,
    }
}

use Verdict::{Blocked, Doubtful, Passes};

fn ask(config: &NetworkConfig, situation: &Situation<'_>) -> Explanation {
    let snapshot = Snapshot::take(config.clone()).expect("looked at");
    let from = match situation.from {
        From::Task(task) => Endpoint::Interface(task.id.clone()),
        From::Host => Endpoint::Host,
        From::Outside => Endpoint::Outside,
    };
    let question = Question {
        from,
        to: situation.to.clone(),
        traffic: situation.traffic,
        ipv6: situation.really.is_ipv6(),
    };
    snapshot.check(&question).expect("an answer")
}

/// All connections are made at once: most of those that are blocked are waited for.
fn all_agree(world: &World, config: &NetworkConfig, situations: &[Situation<'_>]) {
    let begin = |situation: &Situation<'_>| {
        let (address, port) = (situation.really.ip(), situation.really.port());
        match situation.from {
            From::Task(task) => task.connect(address, port),
            From::Outside => inside(&world.outside, || connect(address, port)),
            From::Host => connect(address, port),
        }
    };
    let attempts: Vec<Attempt> = situations.iter().map(begin).collect();
    for (situation, attempt) in situations.iter().zip(attempts) {
        let reached = attempt.within(match situation.verdict {
            Passes => PATIENCE,
            _ => briefly(),
        });
        let explanation = ask(config, situation);
        let text = serde_json::to_string_pretty(&explanation).expect("encoded");
        assert_eq!(explanation.verdict, situation.verdict, "{text}");
        let decides = match situation.verdict {
            Passes => explanation.steps.iter().collect(),
            verdict => {
                let last = explanation
                    .steps
                    .iter()
                    .rfind(|step| step.verdict == verdict);
                last.into_iter().collect::<Vec<_>>()
            }
        };
        let says = decides
            .iter()
            .any(|step| step.says.contains(situation.says));
        assert!(says, "it doesn't say '{}': {text}", situation.says);
        let really = match reached {
            Reached::Yes | Reached::Refused => Passes,
            Reached::Silence | Reached::NoRoute => Blocked,
        };
        let agrees = explanation.verdict == Doubtful || explanation.verdict == really;
        assert!(agrees, "really: {reached:?}, but: {text}");
    }
}

/// Checks that it is said to pass.
pub fn passes(config: &NetworkConfig, from: &Task, to: impl Into<IpAddr>, port: u16) {
    says(config, &tcp(From::Task(from), to, port, Passes, ""));
}

/// Checks that it is said that others' rules decide.
pub fn depends_on_others(config: &NetworkConfig, from: &Task, to: impl Into<IpAddr>, port: u16) {
    says(config, &tcp(From::Task(from), to, port, Doubtful, ""));
}

fn says(config: &NetworkConfig, situation: &Situation<'_>) {
    let explanation = ask(config, situation);
    assert_eq!(explanation.verdict, situation.verdict, "{explanation:?}");
}

fn attach(network: &Network, number: u32, groups: &[u32], published: &[PublishedPort]) -> Task {
    let request = AttachRequest {
        security_groups: groups.iter().copied().map(id).collect(),
        published: published.to_vec(),
        ..request(number)
    };
    Task::of(&network.attach(&request).expect("attached"))
}

fn published(host: u16, container_port: u16) -> PublishedPort {
    let protocol = PortProtocol::Tcp;
    PublishedPort {
        host: HostPort {
            protocol,
            port: host,
        },
        container_port,
    }
}

fn id(number: u32) -> SecurityGroupId {
    format!("sg-{number:017x}").parse().expect("valid")
}

fn the_default_group(world: &World) {
    let network = world.network();
    let one = Task::attach(&network, 1);
    let two = Task::attach_in(&network, 2, 1);
    let web = attach(&network, 3, &[], &[published(8080, 80)]);
    for task in [&two, &web] {
        task.serve(ANY, 80);
    }
    let _outside: Vec<_> = [IpAddr::from(OUTSIDE), OUTSIDE6.into()]
        .map(|address| listen_in(&world.outside, address, 80))
        .into();
    let _host = TcpListener::bind((ANY, 9000)).expect("bound");
    let _metadata = TcpListener::bind((METADATA_ADDRESS, METADATA_PORT)).expect("bound");
    let _resolver = TcpListener::bind((RESOLVER, 53)).expect("bound");
    let by_name = |from, to: &Task, really: IpAddr, port, asked, verdict, says| Situation {
        to: Endpoint::Interface(to.id.clone()),
        traffic: Traffic::Tcp(asked),
        ..tcp(from, really, port, verdict, says)
    };
    let (from, outside, host) = (From::Task(&one), From::Outside, From::Host);
    let default = "egress rule of sg-00000000000000001 lets it pass: everything to ";
    let mut situations = vec![
        tcp(
            from,
            INSTANCE_METADATA,
            80,
            Blocked,
            "instance metadata is blocked",
        ),
        tcp(
            from,
            METADATA_ADDRESS,
            80,
            Passes,
            "port 80 is translated to 169.254.170.2 port 51679",
        ),
        tcp(from, RESOLVER, 53, Passes, "is open to it"),
        tcp(
            from,
            RESOLVER,
            9000,
            Blocked,
            "the host's own addresses are closed",
        ),
        tcp(
            from,
            Ipv4Addr::new(10, 231, 0, 99),
            80,
            Blocked,
            "no task has 10.231.0.99",
        ),
        tcp(from, one.address, 80, Passes, "the task's own address"),
        by_name(outside, &web, HOST.into(), 8080, 80, Passes, "is published"),
        by_name(
            outside,
            &two,
            two.address.into(),
            80,
            80,
            Blocked,
            "published ports",
        ),
    ];
    let hosts: [IpAddr; 2] = [HOST.into(), HOST6.into()];
    let outsides: [IpAddr; 2] = [OUTSIDE.into(), OUTSIDE6.into()];
    for (family, own) in hosts.into_iter().enumerate() {
        let (near, far) = (web.addresses()[family], two.addresses()[family]);
        situations.extend([
            tcp(from, near, 80, Passes, "ingress rule of sg-00000000000000001 lets it pass: everything from sg-00000000000000001"),
            tcp(from, far, 80, Passes, default),
            tcp(from, own, 9000, Blocked, "the host's own addresses are closed"),
            tcp(from, outsides[family], 80, Passes, "as the host (masqueraded)"),
            tcp(outside, near, 80, Blocked, "published ports"),
            tcp(outside, own, 8080, Passes, "what a port is published for passes"),
            tcp(outside, own, 9000, Passes, "is open to it"),
            tcp(host, near, 80, Passes, "it is handed to task-3"),
            tcp(host, own, 8080, Passes, "port 8080 is translated to"),
        ]);
    }
    let routed = world.mode == AttachmentMode::Routed;
    let frames_pass_iptables = fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|text| text.trim() == "1");
    // Back to its own subnet.
    situations.push(match frames_pass_iptables && !routed {
        true => tcp(from, HOST, 8080, Blocked, "br_netfilter"),
        false => tcp(from, HOST, 8080, Passes, "port 8080 is translated to"),
    });
    all_agree(world, &world.config(), &situations);
    let all = Snapshot::take(world.config()).expect("looked at");
    assert_eq!(all.differences(), Vec::<String>::new());
    let view = all.interface_view(&web.id).expect("there");
    assert_eq!(view.missing_elements, Vec::<String>::new());
    // From `one` to it and to `two`, whose policy is the same, in both families: of each the kernel has a rule. What
    // isn't answered soon is sent again, and counts again.
    let ingress = view.rules.iter().filter(|rule| rule.direction == "ingress");
    let counted: Vec<(bool, u64)> = ingress.map(|rule| (rule.in_kernel, rule.packets)).collect();
    let is_counted = matches!(counted[..], [(true, 2..), (true, 2..), (true, 0)]);
    assert!(is_counted, "{view:?}");
    [one, two, web]
        .into_iter()
        .for_each(|task| task.detach(&network));
}

fn group(number: u32, ingress: Vec<Rule>, egress: Vec<Rule>) -> SecurityGroup {
    SecurityGroup::new(id(number), ingress, egress)
}

fn rule(protocol: Protocol, port: i64, peer: Peer) -> Rule {
    Rule::new(protocol, Some(port), Some(port), peer).expect("valid")
}

fn range(range: &str) -> Peer {
    Peer::Range(range.parse().expect("a range"))
}

fn anywhere() -> Vec<Rule> {
    ["0.0.0.0/0", "::/0"]
        .map(|net| Rule::everything(range(net)))
        .into()
}

fn rules_of_groups(world: &World) {
    let tcp_rule = |port, peer| rule(Protocol::TCP, port, peer);
    let server_rules = vec![
        tcp_rule(5432, Peer::Group(id(3))),
        tcp_rule(443, range("10.231.1.0/24")),
        tcp_rule(443, range("fd62:6572:7468:1::/64")),
        rule(Protocol::UDP, 5000, range("10.231.0.0/16")),
    ];
    let config = NetworkConfig {
        security_groups: vec![
            group(2, server_rules, vec![]),
            group(3, vec![], anywhere()),
            group(4, vec![], vec![tcp_rule(443, range("192.0.2.0/24"))]),
        ],
        ..world.config()
    };
    let network = Network::open(config.clone()).expect("opened");
    let server = attach(&network, 1, &[2], &[]);
    let member = attach(&network, 2, &[3], &[]);
    let web = attach(&network, 3, &[4], &[]);
    let elsewhere = AttachRequest {
        subnet: berth_netns::Subnet::defaults()[1].id().clone(),
        security_groups: vec![id(3)],
        ..request(4)
    };
    let elsewhere = Task::of(&network.attach(&elsewhere).expect("attached"));
    for port in [5432, 443, 80] {
        server.serve(ANY, port);
    }
    let _outside = [443, 80].map(|port| listen_in(&world.outside, OUTSIDE, port));
    let mut situations = vec![
        tcp(
            From::Task(&web),
            OUTSIDE,
            443,
            Passes,
            "egress rule of sg-00000000000000004 lets it pass: tcp 443 to 192.0.2.0/24",
        ),
        tcp(
            From::Task(&web),
            OUTSIDE,
            80,
            Blocked,
            "no egress rule of sg-00000000000000004 lets 80/tcp pass",
        ),
        tcp(
            From::Task(&server),
            member.address,
            80,
            Blocked,
            "no egress rule of sg-00000000000000002",
        ),
    ];
    for family in [0, 1] {
        let to = server.addresses()[family];
        let (member, far) = (From::Task(&member), From::Task(&elsewhere));
        situations.extend([
            tcp(
                member,
                to,
                5432,
                Passes,
                "tcp 5432 from sg-00000000000000003",
            ),
            tcp(
                From::Task(&web),
                to,
                5432,
                Blocked,
                "no egress rule of sg-00000000000000004",
            ),
            tcp(
                far,
                to,
                443,
                Passes,
                "ingress rule of sg-00000000000000002 lets it pass: tcp 443 from",
            ),
            tcp(member, to, 443, Blocked, "is not among those"),
            tcp(
                member,
                to,
                80,
                Blocked,
                "no ingress rule of sg-00000000000000002 lets 80/tcp pass",
            ),
        ]);
    }
    all_agree(world, &config, &situations);
    let (receiver, sender) = (
        server.udp(server.address, 5000),
        member.udp(member.address, 0),
    );
    let closed = server.udp(server.address, 5001);
    for (port, verdict, receiver) in [(5000, Passes, &receiver), (5001, Blocked, &closed)] {
        let asked = Situation {
            traffic: Traffic::Udp(port),
            ..tcp(From::Task(&member), server.address, port, verdict, "")
        };
        assert_eq!(ask(&config, &asked).verdict, verdict);
        sender
            .send_to(b"datagram", (server.address, port))
            .expect("sent");
        let received = match verdict {
            Passes => arrives(receiver),
            _ => receive(receiver),
        };
        assert_eq!(received.is_some(), verdict == Passes, "{port}");
    }
    drop((receiver, sender, closed));
    let advice = ask(
        &config,
        &tcp(From::Task(&member), server.address, 80, Blocked, ""),
    );
    let advice = advice.steps.last().and_then(|step| step.advice.clone());
    let permission = r#"{"IpProtocol":"tcp","FromPort":80,"ToPort":80,"UserIdGroupPairs":[{"GroupId":"sg-00000000000000003"}]}"#;
    assert!(
        advice
            .as_ref()
            .is_some_and(|advice| advice.contains(permission)),
        "{advice:?}"
    );
    [server, member, web, elsewhere]
        .into_iter()
        .for_each(|task| task.detach(&network));
}

fn ip(arguments: &str) {
    let status = std::process::Command::new("ip")
        .args(arguments.split(' '))
        .status();
    assert!(status.expect("ip runs").success(), "ip {arguments}");
}

fn what_is_missing(world: &World) {
    let config = plain(world);
    let network = Network::open(config.clone()).expect("opened");
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(ANY, 80);
    let _outside = listen_in(&world.outside, OUTSIDE, 80);
    let pair = |verdict, says| {
        two.addresses()
            .map(|address| tcp(From::Task(&one), address, 80, verdict, says))
    };
    let agree = |situations: &[Situation<'_>]| all_agree(world, &config, situations);
    agree(&pair(Passes, "is handed to task-2"));
    for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{name}"), "0").expect("written");
    }
    agree(&pair(Blocked, "the host forwards nothing"));
    for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{name}"), "1").expect("written");
    }
    let own = one.id.host_link();
    let table = match world.mode {
        AttachmentMode::Bridged => "bridge berth sources",
        AttachmentMode::Routed => "inet berth port_sources",
    };
    nft(&[
        "flush",
        "set",
        &table.split(' ').collect::<Vec<_>>().join(" "),
    ]);
    agree(&[tcp(
        From::Task(&one),
        two.address,
        80,
        Blocked,
        "it counts as forged",
    )]);
    nft(&["flush", "chain", "inet", "berth", "egress"]);
    let opened = Snapshot::take(config.clone())
        .expect("looked at")
        .differences();
    assert!(
        opened
            .iter()
            .any(|line| line.starts_with("the chain egress of inet berth hasn't our rules")),
        "{opened:?}"
    );
    assert!(network.restore_firewall().expect("restored"));
    nft(&["flush", "chain", "inet", "berth", "seen"]);
    agree(&[tcp(
        From::Task(&one),
        two.address,
        80,
        Blocked,
        "haven't marked it",
    )]);
    for family in ["inet", "bridge"] {
        nft(&["delete", "table", family, "berth"]);
    }
    let gone = "the nftables tables inet berth and bridge berth are gone";
    agree(&[
        tcp(From::Task(&one), two.address, 80, Blocked, gone),
        tcp(From::Task(&one), two.ipv6_address, 80, Blocked, gone),
        tcp(From::Task(&one), OUTSIDE, 80, Blocked, gone),
        tcp(From::Outside, two.address, 80, Blocked, gone),
        tcp(From::Host, two.address, 80, Passes, "is handed to task-2"),
        tcp(
            From::Task(&one),
            HOST,
            80,
            Passes,
            "our tables aren't there",
        ),
    ]);
    assert!(network.restore_firewall().expect("restored"));
    agree(&pair(Passes, "is handed to task-2"));
    ip(&format!("link set {} down", two.id.host_link()));
    agree(&pair(Blocked, "it is down"));
    let mut routes = RouteSocket::open().expect("a socket");
    routes.delete_link(&own).expect("removed");
    agree(&pair(Blocked, "it is gone"));
    one.detach(&network);
    two.detach(&network);
}

fn somebody_elses_chain(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(ANY, 80);
    let config = world.config();
    let agree = |verdict, says| {
        let situation = [tcp(From::Task(&one), two.address, 80, verdict, says)];
        all_agree(world, &config, &situation);
        ask(&config, &situation[0])
    };
    nft(&["add table ip other"]);
    nft(&["add chain ip other FORWARD { type filter hook forward priority 0; policy drop; }"]);
    agree(
        Blocked,
        "the chain FORWARD of ip other drops what none of its rules accepts (its policy)",
    );
    nft(&["add rule ip other FORWARD ct mark 1 counter accept"]);
    agree(Doubtful, "this may drop it: the chain FORWARD of ip other");
    nft(&["add chain ip other user"]);
    nft(&[
        "add rule ip other user iifname berth0 ip daddr { 10.231.0.5, 10.9.0.0/16 } tcp dport { 80, 443 } counter accept",
    ]);
    nft(&[
        "add rule ip other user iifname eni-* ip daddr { 10.231.0.5, 10.9.0.0/16 } tcp dport { 80, 443 } counter accept",
    ]);
    let answer = "the chain FORWARD of ip other drops what none of its rules accepts";
    nft(&["flush chain ip other FORWARD"]);
    nft(&["add rule ip other FORWARD jump user"]);
    let explanation = agree(Blocked, answer);
    let last = explanation.steps.last().map(|step| step.place.clone());
    assert_eq!(last.as_deref(), Some("firewall, on the answer's way back"));
    nft(&["add rule ip other FORWARD ct state vmap { invalid : drop, established : accept }"]);
    agree(Passes, "is handed to task-2");
    nft(&["insert rule ip other user ip saddr 10.231.0.4 reject"]);
    let explanation = ask(
        &config,
        &tcp(From::Task(&one), two.address, 80, Blocked, ""),
    );
    let step = explanation.steps.last().map(|step| step.says.clone());
    assert!(
        step.as_ref()
            .is_some_and(|says| says.starts_with("rule 1 of the chain user of ip other")),
        "{step:?}"
    );
    nft(&["delete table ip other"]);
    if world.mode == AttachmentMode::Bridged {
        nft(&["add table bridge other"]);
        nft(&[
            "add chain bridge other OUTPUT { type filter hook output priority 0; policy drop; }",
        ]);
        agree(Blocked, "the chain OUTPUT of bridge other");
        nft(&["delete table bridge other"]);
    }
    one.detach(&network);
    two.detach(&network);
}

fn public_addresses(world: &World) {
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);
    let open = vec![rule(Protocol::TCP, 80, range("0.0.0.0/0"))];
    let config = NetworkConfig {
        security_groups: vec![group(2, open, anywhere())],
        public_addresses: vec!["203.0.113.8/32".parse().expect("a range")],
        ..world.config()
    };
    let network = Network::open(config.clone()).expect("opened");
    let public = AttachRequest {
        assign_public_ip: true,
        security_groups: vec![id(2)],
        ..request(1)
    };
    let public = Task::of(&network.attach(&public).expect("attached"));
    let other = attach(&network, 2, &[2], &[]);
    public.serve(ANY, 80);
    let _outside = listen_in(&world.outside, OUTSIDE, 80);
    inside(&world.outside, || {
        let mut routes = RouteSocket::open().expect("a socket");
        let eth0 = routes.index_of("eth0").expect("there");
        let pool: Ipv4Net = "203.0.113.8/32".parse().expect("a range");
        routes
            .send(&[add_route(eth0, pool, HOST)])
            .expect("a route");
    });
    let by_name = |port, verdict, says| Situation {
        to: Endpoint::Interface(public.id.clone()),
        ..tcp(From::Outside, PUBLIC, port, verdict, says)
    };
    all_agree(
        world,
        &config,
        &[
            by_name(80, Passes, "ingress rule of sg-00000000000000002"),
            by_name(81, Blocked, "no ingress rule of sg-00000000000000002"),
            tcp(From::Host, PUBLIC, 80, Passes, "is translated to"),
            tcp(From::Task(&public), OUTSIDE, 80, Passes, "as 203.0.113.8"),
            tcp(From::Task(&other), OUTSIDE, 80, Passes, "masqueraded"),
        ],
    );
    [public, other]
        .into_iter()
        .for_each(|task| task.detach(&network));
}

fn rules_of_another_file(world: &World) {
    let open = vec![rule(Protocol::TCP, 80, Peer::Group(id(2)))];
    let config = |ingress| NetworkConfig {
        security_groups: vec![group(2, ingress, anywhere())],
        ..world.config()
    };
    let (before, after) = (config(open), config(vec![]));
    let network = Network::open(before.clone()).expect("opened");
    let (one, two) = (
        attach(&network, 1, &[2], &[]),
        attach(&network, 2, &[2], &[]),
    );
    two.serve(ANY, 80);
    let situation = |says| [tcp(From::Task(&one), two.address, 80, Passes, says)];
    all_agree(
        world,
        &before,
        &situation("tcp 80 from sg-00000000000000002"),
    );
    all_agree(
        world,
        &after,
        &situation("a rule that the network's file no longer has"),
    );
    let explanation = ask(&after, &situation("")[0]);
    let difference = "hasn't the rules that the network's file gives sg-00000000000000002";
    assert!(
        explanation
            .differences
            .iter()
            .any(|line| line.contains(difference)),
        "{explanation:?}"
    );
    let view = Snapshot::take(after)
        .expect("looked at")
        .interface_view(&two.id)
        .expect("there");
    assert!(
        view.rules
            .iter()
            .any(|rule| rule.in_kernel && rule.rule.contains("doesn't have")),
        "{view:?}"
    );
    one.detach(&network);
    two.detach(&network);
}
