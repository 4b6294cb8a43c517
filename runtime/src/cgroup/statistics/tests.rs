use super::huge_pages::size_of_directory;
use super::memory::parse_events;
use super::*;

#[test]
fn pressure_is_read_line_by_line() {
    let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\n\
                full avg10=0.10 avg60=0.00 avg300=0.00 total=99\n";
    let pressure = pressure::parse(text);
    assert_eq!(
        (
            pressure.some.avg10,
            pressure.some.avg60,
            pressure.some.total
        ),
        (1.5, 0.25, 12345)
    );
    assert_eq!((pressure.full.avg10, pressure.full.total), (0.1, 99));
    // Before Linux 5.13 there was no "full" of processors.
    assert_eq!(
        pressure::parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n").full,
        Stall::default()
    );
}

#[test]
fn devices_are_read_from_io_stat() {
    let text = "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=5 dios=1\n\
                8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=0 dios=0\n\
                254:3 \n";
    let io = io::parse(text);
    assert_eq!(io.devices.len(), 3);
    let first = io.devices[0];
    assert_eq!((first.major, first.minor), (8, 16));
    assert_eq!(
        (first.read_bytes, first.written_bytes),
        (1_459_200, 314_773_504)
    );
    assert_eq!((first.reads, first.writes), (192, 353));
    assert_eq!((first.discarded_bytes, first.discards), (5, 1));
    assert_eq!(io.devices[2].reads, 0);
}

#[test]
fn processor_time_is_read_whether_or_not_there_is_a_quota() {
    let without = cpu::parse("usage_usec 30\nuser_usec 10\nsystem_usec 20\n");
    assert_eq!((without.usage, without.user, without.system), (30, 10, 20));
    assert_eq!(without.periods, 0);
    let with = cpu::parse("usage_usec 1\nnr_periods 5\nnr_throttled 2\nthrottled_usec 77\n");
    assert_eq!(
        (with.periods, with.throttled_periods, with.throttled),
        (5, 2, 77)
    );
}

#[test]
fn memory_events_are_told_apart() {
    let events = parse_events("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 0\n");
    assert_eq!((events.low, events.high, events.max), (1, 2, 3));
    assert_eq!((events.oom, events.oom_kill), (4, 5));
}

#[test]
fn rdma_devices_have_use_and_limit() {
    let devices = rdma::parse(
        "mlx4_0 hca_handle=2 hca_object=2000\n",
        "mlx4_0 hca_handle=3 hca_object=max\n",
    );
    let device = devices["mlx4_0"];
    assert_eq!((device.handles, device.objects), (2, 2000));
    assert_eq!((device.max_handles, device.max_objects), (3, u64::MAX));
}

#[test]
fn huge_page_sizes_are_named_as_the_files_are() {
    for (directory, size) in [
        ("hugepages-64kB", Some("64KB")),
        ("hugepages-2048kB", Some("2MB")),
        ("hugepages-1048576kB", Some("1GB")),
        ("hugepages-33554432kB", Some("32GB")),
        ("hugepages-kB", None),
        ("other", None),
    ] {
        assert_eq!(size_of_directory(directory).as_deref(), size, "{directory}");
    }
}
