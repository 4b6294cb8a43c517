//! Every property of the specification's Linux configuration, missing, of the wrong type, out of range,
//! absurdly large, and with a null byte: each gets an error that names it.
//!
//! `everything.json` has them all, so that a property that is added there is tried here in every way.

use super::*;

/// A configuration with every property.
fn everything() -> Value {
    serde_json::from_str(include_str!("everything.json")).unwrap()
}

fn load(config: &Value) -> Result<(), Error> {
    let bytes = serde_json::to_vec(config).unwrap();
    let spec = parse_configuration(Path::new("config.json"), &bytes)?;
    validate(&spec, Driver::Cgroupfs)
}

/// The pointers of all values in it.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                let at = format!("{at}/{}", escape(key));
                found.push(at.clone());
                places(below, &at, found);
            }
        }
        Value::Array(list) => {
            for (index, below) in list.iter().enumerate() {
                let at = format!("{at}/{index}");
                found.push(at.clone());
                places(below, &at, found);
            }
        }
        _ => {}
    }
}

/// What makes the values of places bad.
struct Badness<'a> {
    /// The bad values for what is there.
    of: &'a dyn Fn(&Value) -> Vec<Value>,
    /// The places, or parents of places, where nothing may be wrong with it, and why.
    fine: &'a [(&'a str, &'a str)],
}

impl Badness<'_> {
    fn is_fine(&self, place: &str) -> bool {
        let without_numbers = place
            .split('/')
            .filter(|part| part.parse::<usize>().is_err())
            .collect::<Vec<_>>()
            .join("/");
        let matches = |(fine, _): &(&str, &str)| without_numbers.starts_with(fine);
        self.fine.iter().any(matches)
    }

    /// Tries every place, and tells where no error names it.
    fn try_everywhere(&self) {
        let config = everything();
        let mut all = Vec::new();
        places(&config, "", &mut all);
        let mut wrong = Vec::new();
        for place in all {
            for bad in (self.of)(config.pointer(&place).unwrap()) {
                let mut config = config.clone();
                *config.pointer_mut(&place).unwrap() = bad.clone();
                let shown: String = bad.to_string().chars().take(60).collect();
                match (load(&config), self.is_fine(&place)) {
                    (Err(error), _) if names(&error.to_string(), &place) => {}
                    (Ok(()), true) => {}
                    (outcome, _) => wrong.push(format!("{place} = {shown}: {outcome:?}")),
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// Whether a message is one to be read, and has the path of a place, with or without the numbers in it; or at least its section
/// and its name, as where a system call's name is more telling than a number.
fn names(message: &str, place: &str) -> bool {
    // Its parser speaks of the whole, and says which of the two texts in it is wrong.
    let whole = "/process/execCPUAffinity";
    let place = if place.starts_with(whole) {
        whole
    } else {
        place
    };
    let parts: Vec<_> = place.split('/').filter(|part| !part.is_empty()).collect();
    let mut words = parts.iter().filter(|part| part.parse::<usize>().is_err());
    let path = words.clone().copied().collect::<Vec<_>>().join(".");
    let mut plain = String::new();
    let mut depth = 0;
    for letter in message.chars() {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            letter if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    let (section, name) = (
        words.next().unwrap(),
        words.next_back().or(parts.first()).unwrap(),
    );
    let is_named = plain.contains(&path) || message.contains(section) && message.contains(name);
    is_named && message.len() < 4000
}

#[test]
fn a_configuration_with_every_property_is_valid() {
    load(&everything()).unwrap();
    let mut scope = everything();
    scope["linux"]["cgroupsPath"] = json!("machine.slice:libpod:abc");
    let text = scope.to_string();
    let spec = parse_configuration(Path::new("config.json"), text.as_bytes()).unwrap();
    validate(&spec, Driver::Systemd).unwrap();
}

#[test]
fn a_value_of_the_wrong_type_is_named() {
    let other_types = |value: &Value| {
        let all = [
            json!(true),
            json!(3),
            json!("text"),
            json!([[]]),
            json!({"a": {}}),
        ];
        let same = |a: &Value, b: &Value| std::mem::discriminant(a) == std::mem::discriminant(b);
        all.into_iter()
            .filter(|other| !same(value, other))
            .collect()
    };
    Badness {
        of: &other_types,
        fine: &[],
    }
    .try_everywhere();
}

/// What the specification requires, and no default could stand for.
const REQUIRED: [&str; 60] = [
    "/ociVersion",
    "/process",
    "/linux",
    "/root/path",
    "/mounts/0/destination",
    "/mounts/0/type",
    "/mounts/3/source",
    "/mounts/3/uidMappings/0/containerID",
    "/mounts/3/uidMappings/0/hostID",
    "/mounts/3/uidMappings/0/size",
    "/mounts/3/gidMappings/0/hostID",
    "/process/user",
    "/process/user/uid",
    "/process/user/gid",
    "/process/args",
    "/process/cwd",
    "/process/consoleSize/height",
    "/process/consoleSize/width",
    "/process/rlimits/0/type",
    "/process/rlimits/0/soft",
    "/process/rlimits/0/hard",
    "/process/scheduler/policy",
    "/process/ioPriority/class",
    "/process/ioPriority/priority",
    "/hooks/prestart/0/path",
    "/hooks/poststop/0/path",
    "/linux/namespaces",
    "/linux/namespaces/0/type",
    "/linux/uidMappings",
    "/linux/uidMappings/0/containerID",
    "/linux/uidMappings/0/hostID",
    "/linux/uidMappings/0/size",
    "/linux/gidMappings/0/hostID",
    "/linux/devices/0/path",
    "/linux/devices/0/type",
    "/linux/devices/0/major",
    "/linux/devices/0/minor",
    "/linux/resources/devices/0/allow",
    "/linux/resources/blockIO/weightDevice/0/major",
    "/linux/resources/blockIO/weightDevice/0/minor",
    "/linux/resources/blockIO/throttleReadBpsDevice/0/major",
    "/linux/resources/blockIO/throttleReadBpsDevice/0/minor",
    "/linux/resources/blockIO/throttleReadBpsDevice/0/rate",
    "/linux/resources/blockIO/throttleWriteBpsDevice/0/rate",
    "/linux/resources/blockIO/throttleReadIOPSDevice/0/rate",
    "/linux/resources/blockIO/throttleWriteIOPSDevice/0/rate",
    "/linux/resources/hugepageLimits/0/pageSize",
    "/linux/resources/hugepageLimits/0/limit",
    "/linux/resources/network/priorities/0/name",
    "/linux/resources/network/priorities/0/priority",
    "/linux/seccomp/defaultAction",
    "/linux/seccomp/listenerPath",
    "/linux/seccomp/syscalls/0/names",
    "/linux/seccomp/syscalls/0/action",
    "/linux/seccomp/syscalls/2/args/0/index",
    "/linux/seccomp/syscalls/2/args/0/value",
    "/linux/seccomp/syscalls/2/args/0/op",
    "/linux/personality/domain",
    "/linux/memoryPolicy/mode",
    "/linux/memoryPolicy/nodes",
];

#[test]
fn a_field_that_is_missing_is_named() {
    for place in REQUIRED {
        let mut config = everything();
        let (parent, name) = place.rsplit_once('/').unwrap();
        let parent = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        parent.remove(name).unwrap();
        let refused = load(&config).err().map(|error| error.to_string());
        let message = refused.unwrap_or_default();
        assert!(names(&message, place), "{place}: {message:?}");
    }
}

#[test]
fn a_configuration_without_its_optional_fields_is_valid() {
    let mut all = Vec::new();
    places(&everything(), "", &mut all);
    for place in all {
        let mut config = everything();
        let (parent, name) = place.rsplit_once('/').unwrap();
        let Some(parent) = config.pointer_mut(parent).unwrap().as_object_mut() else {
            continue;
        };
        parent.remove(name).unwrap();
        if let Err(error) = load(&config) {
            // It may be what another field needs.
            let required = REQUIRED.contains(&place.as_str());
            assert!(
                required || error.to_string().contains('.'),
                "{place}: {error}"
            );
        }
    }
}

#[test]
fn a_number_out_of_range_is_named() {
    let negative = |value: &Value| match value {
        Value::Number(_) => vec![json!(i64::MIN), json!(0.5), json!(1e300)],
        _ => vec![],
    };
    Badness {
        of: &negative,
        fine: &[(
            "/linux/resources/cpu/realtimeRuntime",
            "passed over with a warning",
        )],
    }
    .try_everywhere();
    let huge = |value: &Value| match value {
        Value::Number(_) => vec![json!(u64::MAX)],
        _ => vec![],
    };
    Badness {
        of: &huge,
        fine: &[
            ("/process/rlimits/hard", "the number for no limit"),
            (
                "/linux/resources/cpu/shares",
                "the largest weight stands for it",
            ),
            (
                "/linux/resources/cpu/realtimePeriod",
                "passed over with a warning",
            ),
            (
                "/linux/resources/blockIO/throttle",
                "faster than any device",
            ),
            (
                "/linux/seccomp/syscalls/args/value",
                "an argument has 64 bits",
            ),
        ],
    }
    .try_everywhere();
}

#[test]
fn a_null_byte_is_named() {
    let with_null = |value: &Value| match value {
        Value::String(text) => vec![json!(format!("{text}\0")), json!(format!("/\0{text}"))],
        _ => vec![],
    };
    Badness {
        of: &with_null,
        fine: &[
            ("/annotations", "given back, and told in JSON"),
            ("/linux/seccomp/listenerMetadata", "told in JSON"),
            (
                "/linux/seccomp/syscalls/names",
                "looked up, and no call has this name",
            ),
            (
                "/linux/resources/network/priorities/name",
                "passed over with a warning",
            ),
        ],
    }
    .try_everywhere();
}

#[test]
fn a_text_of_a_megabyte_is_named_and_not_repeated() {
    let long = |value: &Value| match value {
        Value::String(text) => vec![
            json!(text.clone() + &"x".repeat(1 << 20)),
            json!("/x".repeat(70_000)),
        ],
        _ => vec![],
    };
    Badness {
        of: &long,
        fine: &[
            ("/annotations", "given back, and told in JSON"),
            ("/linux/seccomp/listenerMetadata", "told in JSON"),
            (
                "/linux/seccomp/syscalls/names",
                "looked up, and no call has this name",
            ),
            (
                "/linux/resources/network/priorities/name",
                "passed over with a warning",
            ),
        ],
    }
    .try_everywhere();
}

#[test]
fn a_list_of_a_hundred_thousand_entries_is_named() {
    let long = |value: &Value| match value {
        Value::Array(list) => vec![Value::Array(vec![
            list.first()
                .cloned()
                .unwrap_or(json!("x"));
            100_000
        ])],
        _ => vec![],
    };
    Badness {
        of: &long,
        fine: &[
            ("/process/capabilities", "a set: each counts once"),
            ("/process/args", "as much as execve takes"),
            ("/process/env", "as much as execve takes"),
            ("/process/scheduler/flags", "a set"),
            ("/hooks/prestart/args", "as much as execve takes"),
            ("/hooks/prestart/env", "as much as execve takes"),
            ("/hooks/createRuntime/args", "as much as execve takes"),
            ("/hooks/createRuntime/env", "as much as execve takes"),
            ("/hooks/createContainer/args", "as much as execve takes"),
            ("/hooks/createContainer/env", "as much as execve takes"),
            ("/hooks/startContainer/args", "as much as execve takes"),
            ("/hooks/startContainer/env", "as much as execve takes"),
            ("/hooks/poststart/args", "as much as execve takes"),
            ("/hooks/poststart/env", "as much as execve takes"),
            ("/hooks/poststop/args", "as much as execve takes"),
            ("/hooks/poststop/env", "as much as execve takes"),
            (
                "/linux/resources/network/priorities",
                "passed over with a warning",
            ),
            ("/linux/seccomp/architectures", "a set"),
            ("/linux/seccomp/flags", "a set"),
            ("/linux/seccomp/syscalls/names", "each decided once"),
            ("/linux/memoryPolicy/flags", "a set"),
        ],
    }
    .try_everywhere();
}

#[test]
fn nesting_beyond_all_measure_is_an_error_and_none_that_overflows_the_stack() {
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    for text in [
        deep(200_000),
        format!(r#"{{"process": {}}}"#, deep(200_000)),
        format!(r#"{{"annotations": {{"a": {}}}}}"#, deep(200_000)),
    ] {
        parse_configuration(Path::new("config.json"), text.as_bytes()).unwrap_err();
    }
    // What nobody knows is passed over, however deep it is.
    let mut config = everything();
    config["process"]["scheduler"]["flags"] = json!([]);
    let mut text = config.to_string();
    text.insert_str(1, &format!(r#""unknown": {}, "#, deep(200_000)));
    parse_configuration(Path::new("config.json"), text.as_bytes()).unwrap();
}

#[test]
fn what_contradicts_itself_is_named() {
    let maps = |first: u32, second: u32| json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": first, "hostID": second, "size": 10}]);
    for (place, bad) in [
        ("/process/scheduler/runtime", json!(5_000_000)),
        ("/process/scheduler/period", json!(1_500_000)),
        ("/process/scheduler/deadline", json!(500_000)),
        ("/process/rlimits/0/soft", json!(2048)),
        ("/linux/uidMappings", maps(9, 10)),
        ("/linux/gidMappings", maps(10, 9)),
        ("/linux/devices/0/type", json!("a")),
        ("/linux/resources/devices/1/type", json!("p")),
        ("/linux/resources/devices/1/major", json!(1i64 << 32)),
        ("/linux/resources/devices/1/minor", json!(-2)),
        ("/linux/resources/devices/1/access", json!("rx")),
        ("/linux/resources/cpu/burst", json!(100_001)),
        ("/linux/resources/memory/swap", json!(1)),
        ("/linux/maskedPaths/0", json!("")),
        ("/linux/readonlyPaths/0", json!("relative")),
        ("/linux/memoryPolicy/nodes", json!("")),
        (
            "/linux/memoryPolicy/flags",
            json!(["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]),
        ),
        ("/linux/timeOffsets/monotonic/secs", json!(1i64 << 40)),
        ("/linux/seccomp/syscalls/2/action", json!("SCMP_ACT_ALLOW")),
        (
            "/linux/seccomp/listenerPath",
            json!(format!("/{}", "x".repeat(107))),
        ),
        ("/linux/seccomp/syscalls/2/errnoRet", json!(4096)),
        ("/linux/seccomp/syscalls/2/args/0/index", json!(6)),
    ] {
        let mut config = everything();
        *config.pointer_mut(place).unwrap() = bad;
        let message = load(&config).unwrap_err().to_string();
        let name = place
            .rsplit('/')
            .find(|part| part.parse::<usize>().is_err())
            .unwrap();
        let other = name == "action" && message.contains("errnoRet");
        let times = name == "deadline" && message.contains("scheduler.runtime");
        assert!(
            message.contains(name) || other || times,
            "{place}: {message}"
        );
    }
    let mut config = everything();
    config["linux"]["devices"] = json!(vec![config["linux"]["devices"][0].clone(); 2]);
    let message = load(&config).unwrap_err().to_string();
    assert!(message.contains("linux.devices[1].path"), "{message}");
    let mut annotated = crate::spec::default();
    let wrong = [(
        "org.systemd.property.TimeoutStopSec".to_owned(),
        "soon".to_owned(),
    )];
    annotated.set_annotations(Some(wrong.into()));
    let message = validate(&annotated, Driver::Systemd)
        .unwrap_err()
        .to_string();
    assert!(message.contains("TimeoutStopSec"), "{message}");
}
