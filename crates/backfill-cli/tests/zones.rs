//! Which rules of time zones a crontab goes by.

mod common;

use common::Scene;

/// A file as systems have them for a zone, whose clocks are always this many hours ahead of UTC.
fn zone_file(hours: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..2 {
        bytes.extend(b"TZif2");
        bytes.extend([0; 15]);
        // One kind of time, with a name of four bytes; no change of the clocks.
        for count in [0_u32, 0, 0, 0, 1, 4] {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend((hours * 3600).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(b"XXX\0");
    }
    bytes.extend(format!("\n<+{hours:02}>-{hours}\n").bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machines_own_rules_of_time_zones_are_used_and_told() {
    let scene = Scene::new().await;
    std::fs::create_dir_all(scene.path("zones/America")).expect("a directory");
    std::fs::write(scene.path("zones/America/Vancouver"), zone_file(5)).expect("write");
    std::fs::write(scene.path("zones/tzdata.zi"), "# version 2099a\n").expect("write");
    std::fs::write(scene.path("crontab"), "# dialect: extended\n30 12 * * * noon ?tz=America/Vancouver\n")
        .expect("write");
    let check = ["crontab", "check", "crontab", "--next", "1"];
    let mut command = scene.command(&check);
    command.env("TZDIR", scene.path("zones"));
    let output = command.output().await.expect("run");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains(" 07:30:00"), "{told}");
    assert!(told.contains("time zones: release 2099a, the machine's in "), "{told}");
    let mut command = scene.command(&["doctor"]);
    command.env("TZDIR", scene.path("zones"));
    scene.run(&["migrate"]).await.ok();
    let output = command.output().await.expect("run");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("time zones: release 2099a, "), "{told}");

    // Whatever this machine has: rules of before 2026 are not taken where newer ones are embedded.
    let told = scene.run(&check).await.ok();
    assert!(told.contains(" 19:30:00") && told.contains("time zones: release 20"), "{told}");
}
