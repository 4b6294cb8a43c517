use super::*;

fn parse(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn line(write: &Write) -> String {
    let mut line = format!("{} = {}", write.file, write.value);
    match &write.if_absent {
        IfAbsent::Fail => {}
        IfAbsent::Fine => line.push_str(" (if there)"),
        IfAbsent::Write(other) => line.push_str(&format!(" | {}", self::line(other))),
    }
    line
}

fn lines(json: &str) -> Result<Vec<String>, Error> {
    Ok(writes(&parse(json))?.iter().map(line).collect())
}

#[test]
fn shares_become_weights_on_runcs_curve() {
    let pairs = [
        (2, 1),
        (1024, 100),
        (262_144, 10_000),
        (512, 59),
        (2048, 174),
        (1, 1),
    ];
    for (shares, weight) in pairs {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
}

#[test]
fn limits_are_written_as_v2_has_them() {
    let table: &[(&str, &[&str])] = &[
        (r#"{"cpu": {"shares": 1024}}"#, &["cpu.weight = 100"]),
        (r#"{"cpu": {"shares": 0}}"#, &[]),
        (r#"{"cpu": {"quota": 50000}}"#, &["cpu.max = 50000 100000"]),
        (
            r#"{"cpu": {"quota": 50000, "period": 20000}}"#,
            &["cpu.max = 50000 20000"],
        ),
        (r#"{"cpu": {"period": 20000}}"#, &["cpu.max = max 20000"]),
        (
            r#"{"cpu": {"quota": -1, "period": 20000}}"#,
            &["cpu.max = max 20000"],
        ),
        (r#"{"cpu": {"quota": -1}}"#, &["cpu.max = max (if there)"]),
        (r#"{"cpu": {"quota": 0, "period": 0}}"#, &[]),
        (
            r#"{"cpu": {"quota": 5000, "burst": 2000}}"#,
            &["cpu.max = 5000 100000", "cpu.max.burst = 2000"],
        ),
        (
            r#"{"cpu": {"idle": 1, "shares": 2}}"#,
            &["cpu.weight = 1", "cpu.idle = 1"],
        ),
        (
            r#"{"cpu": {"idle": 0, "burst": 0}}"#,
            &["cpu.max.burst = 0 (if there)", "cpu.idle = 0 (if there)"],
        ),
        (
            r#"{"cpu": {"cpus": "0-1,3", "mems": "0"}}"#,
            &["cpuset.cpus = 0-1,3", "cpuset.mems = 0"],
        ),
        (r#"{"cpu": {"cpus": "", "mems": ""}}"#, &[]),
        (
            r#"{"cpu": {"cpus": "0-1023:2/4, 5"}}"#,
            &["cpuset.cpus = 0-1023:2/4, 5"],
        ),
        (r#"{"memory": {"limit": 1000}}"#, &["memory.max = 1000"]),
        (
            r#"{"memory": {"limit": 1000, "swap": 1500, "reservation": 500}}"#,
            &[
                "memory.swap.max = 500",
                "memory.max = 1000",
                "memory.low = 500",
            ],
        ),
        (
            r#"{"memory": {"limit": 1000, "swap": 1000}}"#,
            &["memory.swap.max = 0 (if there)", "memory.max = 1000"],
        ),
        (
            r#"{"memory": {"limit": 1000, "swap": -1}}"#,
            &["memory.swap.max = max (if there)", "memory.max = 1000"],
        ),
        (
            r#"{"memory": {"limit": -1}}"#,
            &[
                "memory.swap.max = max (if there)",
                "memory.max = max (if there)",
            ],
        ),
        (
            r#"{"memory": {"limit": 0, "swap": 0, "reservation": 0}}"#,
            &[],
        ),
        (r#"{"pids": {"limit": 10}}"#, &["pids.max = 10"]),
        (r#"{"pids": {"limit": -1}}"#, &["pids.max = max (if there)"]),
        (r#"{"pids": {"limit": 0}}"#, &[]),
        (r#"{"pids": {}}"#, &[]),
        (
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
            &[
                "hugetlb.2MB.max = 4194304",
                "hugetlb.2MB.rsvd.max = 4194304 (if there)",
            ],
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]}"#,
            &["hugetlb.1GB.max = 0", "hugetlb.1GB.rsvd.max = 0 (if there)"],
        ),
        (
            r#"{"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 1000}, "mlx4_0": {"hcaObjects": 7}, "x": {}}}"#,
            &[
                "rdma.max = mlx4_0 hca_object=7",
                "rdma.max = mlx5_1 hca_handle=3 hca_object=1000",
            ],
        ),
    ];
    for (json, want) in table {
        assert_eq!(lines(json).unwrap(), *want, "{json}");
    }
}

#[test]
fn block_io_becomes_io() {
    let table: &[(&str, &[&str])] = &[
        (
            r#"{"blockIO": {"weight": 10}}"#,
            &["io.bfq.weight = 10 | io.weight = 1"],
        ),
        (
            r#"{"blockIO": {"weight": 500}}"#,
            &["io.bfq.weight = 500 | io.weight = 4950"],
        ),
        (
            r#"{"blockIO": {"weight": 1000}}"#,
            &["io.bfq.weight = 1000 | io.weight = 10000"],
        ),
        (r#"{"blockIO": {"weight": 0}}"#, &[]),
        (
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 100}]}}"#,
            &["io.bfq.weight = 8:0 100 | io.weight = 8:0 910"],
        ),
        (
            r#"{"blockIO": {
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}, {"major": 8, "minor": 16, "rate": 7}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2000}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 30}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}}"#,
            &[
                "io.max = 8:0 rbps=1000 wbps=2000 riops=30 wiops=max",
                "io.max = 8:16 rbps=7",
            ],
        ),
    ];
    for (json, want) in table {
        assert_eq!(lines(json).unwrap(), *want, "{json}");
    }
}

#[test]
fn unified_files_come_last_in_the_order_of_their_names_line_by_line() {
    let json = r#"{"unified": {"memory.high": "900", "io.max": "8:0 rbps=1\n8:16 rbps=2\n", "cgroup.max.depth": "3", "misc.max": ""},
        "memory": {"limit": 1000}}"#;
    let want = [
        "memory.max = 1000",
        "cgroup.max.depth = 3",
        "io.max = 8:0 rbps=1",
        "io.max = 8:16 rbps=2",
        "memory.high = 900",
    ];
    assert_eq!(lines(json).unwrap(), want);
    let writes = writes(&parse(json)).unwrap();
    let controllers: Vec<_> = writes.iter().map(|w| w.controller.as_deref()).collect();
    assert_eq!(
        controllers,
        [Some("memory"), None, Some("io"), Some("io"), Some("memory")]
    );
}

#[test]
fn lifting_a_limit_needs_no_controller() {
    for json in [
        r#"{"memory": {"limit": -1}}"#,
        r#"{"pids": {"limit": -1}}"#,
        r#"{"cpu": {"quota": -1}}"#,
    ] {
        let writes = writes(&parse(json)).unwrap();
        assert!(writes.iter().all(|w| w.controller.is_none()), "{json}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for (json, field) in [
        (r#"{"memory": {"swap": 100, "limit": 200}}"#, "memory.swap"),
        (r#"{"memory": {"swap": 100}}"#, "memory.swap"),
        (r#"{"memory": {"swap": 100, "limit": -1}}"#, "memory.swap"),
        (r#"{"memory": {"limit": -2}}"#, "memory.limit"),
        (r#"{"memory": {"reservation": -7}}"#, "memory.reservation"),
        (r#"{"cpu": {"period": 999}}"#, "cpu.period"),
        (r#"{"cpu": {"period": 1000001}}"#, "cpu.period"),
        (r#"{"cpu": {"quota": 999}}"#, "cpu.quota"),
        (r#"{"cpu": {"idle": 2}}"#, "cpu.idle"),
        (r#"{"cpu": {"quota": 17592186044416}}"#, "cpu.quota"),
        (r#"{"cpu": {"quota": 5000, "burst": 5001}}"#, "cpu.burst"),
        (r#"{"cpu": {"cpus": "3-1"}}"#, "cpu.cpus"),
        (r#"{"cpu": {"cpus": "0\u0000"}}"#, "cpu.cpus"),
        (r#"{"cpu": {"mems": "all"}}"#, "cpu.mems"),
        (r#"{"pids": {"limit": 4194305}}"#, "pids.limit"),
        (r#"{"pids": {"limit": -2}}"#, "pids.limit"),
        (r#"{"memory": {"swappiness": 101}}"#, "memory.swappiness"),
        (
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": -2}]}"#,
            "hugepageLimits[0].limit",
        ),
        (r#"{"blockIO": {"weight": 9}}"#, "blockIO.weight"),
        (r#"{"blockIO": {"weight": 1001}}"#, "blockIO.weight"),
        (
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 1}]}}"#,
            "blockIO.weightDevice[0].weight",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "2MB/../x", "limit": 0}]}"#,
            "hugepageLimits[0].pageSize",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "MB", "limit": 0}]}"#,
            "hugepageLimits[0].pageSize",
        ),
        (r#"{"rdma": {"a b": {"hcaHandles": 1}}}"#, "rdma"),
        (
            r#"{"unified": {"../cgroup.procs": "1"}}"#,
            "../cgroup.procs",
        ),
        (r#"{"unified": {"cgroup.procs": "1"}}"#, "cgroup.procs"),
        (r#"{"unified": {"cgroup.kill": "1"}}"#, "cgroup.kill"),
        (r#"{"unified": {"memory": "1"}}"#, "\"memory\""),
        (r#"{"unified": {".max": "1"}}"#, "\".max\""),
        (r#"{"unified": {"memory.": "1"}}"#, "\"memory.\""),
    ] {
        let message = lines(json).unwrap_err().to_string();
        assert!(message.contains(field), "{json}: {message}");
    }
}

#[test]
fn what_only_v1_has_is_passed_over_with_a_warning() {
    let warned = |json: &str| {
        assert!(writes(&parse(json)).unwrap().is_empty(), "{json}");
        passed_over(&parse(json)).len()
    };
    for json in [
        r#"{"memory": {"kernel": 100}}"#,
        r#"{"memory": {"kernelTCP": 100}}"#,
        r#"{"memory": {"swappiness": 60}}"#,
        r#"{"memory": {"disableOOMKiller": true}}"#,
        r#"{"memory": {"useHierarchy": false}}"#,
        r#"{"cpu": {"realtimeRuntime": 950000}}"#,
        r#"{"cpu": {"realtimePeriod": 1000000}}"#,
        r#"{"blockIO": {"leafWeight": 100}}"#,
        r#"{"network": {"classID": 1048577}}"#,
        r#"{"network": {"priorities": [{"name": "eth0", "priority": 5}]}}"#,
    ] {
        assert_eq!(warned(json), 1, "{json}");
    }
    // What engines send to say nothing.
    let nothing = r#"{"memory": {"kernel": -1, "kernelTCP": 0, "disableOOMKiller": false, "useHierarchy": true},
        "cpu": {"realtimeRuntime": 0, "realtimePeriod": 0}, "blockIO": {"leafWeight": 0},
        "network": {"classID": 0, "priorities": []}}"#;
    assert_eq!(warned(nothing), 0);
}
