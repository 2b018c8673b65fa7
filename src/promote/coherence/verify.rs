//! The checks of an image, and what each of them says.

use std::io;
use std::path::Path;

use super::initrd_check::{self, Comparison};
use super::kernel_image::Kernel;
use super::module_tree::{MODULES, ModuleTree};
use super::modules_dep;
use super::report::{Check, CheckState, CoherenceReport, Findings, counted, in_rootfs};
use super::staged_image::{self, StagedImage};
use crate::error::{Result, printable};
use crate::progress::Progress;
use crate::promote::apply::initramfs::OUTPUTS;
use crate::promote::inputs::workspace::image_tree;
use crate::promote::path::KERNEL;
use crate::promote::status::{HeldState, StatusReport, status};

/// The copy of the kernel image that the device boots from its file system.
const BOOT_IMAGE: &str = "rootfs/boot/Image";

const UNKNOWN_RELEASE: &str = "the release of the kernel is not known";

/// Checks whether the image fits together. It reads with the rights of this process, and writes
/// nothing. `image` is `Linux_for_Tegra/` or the folder that contains it. It can be an image that
/// this program has never written to.
///
/// # Errors
/// The image cannot be opened, or the user asks to stop. What is wrong in the image is part of
/// the report.
pub fn verify(image: &Path, progress: &dyn Progress) -> Result<CoherenceReport> {
    let path = image_tree(image)?;
    let image = StagedImage::open(&path)?;
    progress.begin("checking", 0);
    let kernel = image
        .file(Path::new(KERNEL))
        .and_then(|file| Kernel::read(&file));
    let release = kernel.as_ref().ok().map(|kernel| kernel.release.clone());
    let (modules, initrds) = std::thread::scope(|scope| {
        // On two processors, reading the modules takes about as long as one initramfs.
        let initrds = scope.spawn(|| initrds(&image, release.as_deref(), progress));
        let modules = modules(&image, release.as_deref(), progress);
        let initrds = initrds.join();
        let initrds = initrds.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        modules.and_then(|modules| Ok((modules, initrds?)))
    })?;
    let mut checks = vec![kernel_images(&image), kernel_release(&kernel)];
    checks.push(vermagic(kernel.as_ref().ok(), &modules));
    checks.extend(initrds);
    checks.push(modules_dep(&image, &modules));
    checks.extend(records(&path, progress)?);
    progress.end();
    Ok(CoherenceReport {
        image: path,
        release,
        checks,
    })
}

fn kernel_images(image: &StagedImage) -> Check {
    let mut findings = Findings::default();
    let mut open = |path: &str| {
        let file = image.file(Path::new(path));
        file.map_err(|e| findings.error(path, &e)).ok()
    };
    let files = (open(KERNEL), open(BOOT_IMAGE));
    let mut differ = false;
    if let (Some(mut kernel), Some(mut boot)) = files {
        match staged_image::same(&mut kernel, &mut boot) {
            Ok(true) => {}
            Ok(false) => {
                differ = true;
                findings.failed(BOOT_IMAGE, format!("it is not the same as {KERNEL}"));
            }
            Err((staged_image::Side::One, e)) => findings.error(KERNEL, &e),
            Err((staged_image::Side::Other, e)) => findings.error(BOOT_IMAGE, &e),
        }
    }
    findings.check("kernel-images", |_, state| {
        match state {
            CheckState::Ok => "both kernel images are the same",
            CheckState::Failed if differ => "the kernel images are different",
            CheckState::Failed => "a kernel image is missing",
            CheckState::Unchecked => "the kernel images could not be compared",
        }
        .into()
    })
}

fn kernel_release(kernel: &io::Result<Kernel>) -> Check {
    let mut findings = Findings::default();
    if let Err(e) = kernel {
        findings.error(KERNEL, e);
    }
    findings.check("kernel-release", |_, _| match kernel {
        Ok(kernel) => kernel.release.clone(),
        Err(_) => UNKNOWN_RELEASE.into(),
    })
}

/// The modules, or why they cannot be read. `None` means that the release is not known.
type Modules = Option<io::Result<ModuleTree>>;

fn modules(image: &StagedImage, release: Option<&str>, progress: &dyn Progress) -> Result<Modules> {
    let Some(release) = release else {
        return Ok(None);
    };
    Ok(Some(match image.rootfs() {
        Ok(rootfs) => ModuleTree::read(rootfs, release, progress)?,
        Err(e) => Err(e),
    }))
}

/// Returns the modules, or the findings that say why there are none.
fn read<'a>(modules: &'a Modules, release: &str) -> std::result::Result<&'a ModuleTree, Findings> {
    let mut findings = Findings::default();
    match modules {
        Some(Ok(tree)) => return Ok(tree),
        Some(Err(e)) => findings.error(in_rootfs(&Path::new(MODULES).join(release)), e),
        None => findings.unchecked(KERNEL, UNKNOWN_RELEASE),
    }
    Err(findings)
}

fn vermagic(kernel: Option<&Kernel>, modules: &Modules) -> Check {
    let release = kernel.map_or("", |kernel| &kernel.release);
    let wanted = kernel.and_then(|kernel| kernel.vermagic.as_deref());
    let unread = |_: &Findings, _| "the modules could not be read".into();
    let tree = match read(modules, release) {
        Ok(tree) => tree,
        Err(findings) => return findings.check("vermagic", unread),
    };
    let mut findings = Findings::default();
    for (dir, error) in &tree.unreadable {
        findings.error(in_rootfs(&tree.dir.join(dir)), error);
    }
    for module in &tree.modules {
        let path = in_rootfs(&tree.dir.join(&module.path));
        let magic = match &module.info {
            Ok(info) => info.vermagic(),
            Err(e) => {
                findings.error(path, e);
                continue;
            }
        };
        let Some(magic) = magic else {
            findings.failed(path, "it does not say for which kernel it is built");
            continue;
        };
        let is_same_release = magic.split(' ').next() == Some(release);
        if !is_same_release {
            let magic = printable(magic);
            findings.failed(path, format!("it is built for another kernel, {magic}"));
        } else if wanted.is_some_and(|wanted| wanted != magic) {
            let (magic, wanted) = (printable(magic), printable(wanted.unwrap_or_default()));
            findings.failed(
                path,
                format!("it is built for {magic}, the kernel is {wanted}"),
            );
        }
    }
    let count = tree.modules.len() as u64;
    findings.check("vermagic", |findings, state| match (state, count) {
        (CheckState::Ok, 0) => "there are no modules".into(),
        (CheckState::Ok, _) => {
            let verb = if count == 1 { "is" } else { "are" };
            format!("{} {verb} built for this kernel", counted(count, "module"))
        }
        (CheckState::Failed, _) => {
            let failed = findings.count_failed();
            let verb = if failed == 1 { "is" } else { "are" };
            let count = counted(count, "module");
            format!("{failed} of {count} {verb} not built for this kernel")
        }
        (CheckState::Unchecked, _) => "not all modules could be read".into(),
    })
}

/// Checks both initramfs files. Most often they are the same, and then one is read.
fn initrds(
    image: &StagedImage,
    release: Option<&str>,
    progress: &dyn Progress,
) -> Result<Vec<Check>> {
    let [one, other] = OUTPUTS.map(Path::new);
    let first = initrd_check::compare(image, one, release, progress)?;
    let are_same = match (image.file(one), image.file(other)) {
        (Ok(mut one), Ok(mut other)) => {
            matches!(staged_image::same(&mut one, &mut other), Ok(true))
        }
        _ => false,
    };
    let second = match are_same {
        true => first.clone(),
        false => initrd_check::compare(image, other, release, progress)?,
    };
    Ok(vec![
        initrd("bootloader-initrd", first),
        initrd("rootfs-initrd", second),
    ])
}

fn initrd(name: &'static str, found: Comparison) -> Check {
    let modules = found.modules;
    found.findings.check(name, |findings, state| match state {
        CheckState::Ok if modules == 0 => "it has no modules".into(),
        CheckState::Ok => {
            let verb = if modules == 1 { "is" } else { "are" };
            format!(
                "{} {verb} the same as in rootfs",
                counted(modules, "module")
            )
        }
        CheckState::Failed if modules == 0 => "the initramfs cannot be used".into(),
        CheckState::Failed => {
            let failed = counted(findings.count_failed(), "problem");
            format!("{failed} with {}", counted(modules, "module"))
        }
        CheckState::Unchecked => "the initramfs could not be read completely".into(),
    })
}

fn modules_dep(image: &StagedImage, modules: &Modules) -> Check {
    let release = match modules {
        Some(Ok(tree)) => tree.dir.clone(),
        _ => MODULES.into(),
    };
    let release = release.strip_prefix(MODULES).unwrap_or(&release);
    let findings = match (read(modules, &release.to_string_lossy()), image.rootfs()) {
        (Ok(tree), Ok(rootfs)) => modules_dep::check(rootfs, tree),
        (Err(findings), _) => findings,
        (_, Err(e)) => {
            let mut findings = Findings::default();
            findings.error("rootfs", &e);
            findings
        }
    };
    findings.check("modules-dep", |findings, state| match state {
        CheckState::Ok => "it lists every module and what each depends on".into(),
        CheckState::Failed => {
            let failed = counted(findings.count_failed(), "problem");
            format!("it does not match the modules, {failed}")
        }
        CheckState::Unchecked => "it could not be compared with all modules".into(),
    })
}

/// Checks the records of the image: whether what was promoted is unchanged, and whether the
/// initramfs is due.
fn records(image: &Path, progress: &dyn Progress) -> Result<[Check; 2]> {
    let (mut promoted, mut pending) = (Findings::default(), Findings::default());
    let report = match status(image, progress) {
        Ok(report) => Some(report),
        Err(e) if e.kind() == crate::error::Kind::Interrupted => return Err(e),
        Err(e) => {
            promoted.unchecked(crate::promote::path::SIDECAR, e.to_string());
            pending = promoted.clone();
            None
        }
    };
    for file in report.iter().flat_map(|report| &report.files) {
        let id = file.id;
        match file.state {
            HeldState::Intact => {}
            HeldState::Edited => {
                promoted.failed(&file.path, format!("it was changed after promote {id}"));
            }
            HeldState::Missing => {
                promoted.failed(&file.path, format!("it was removed after promote {id}"));
            }
            HeldState::Unreadable => {
                promoted.unchecked(&file.path, "only root can read it");
            }
        }
    }
    if report.as_ref().is_some_and(|report| report.initramfs_due) {
        let message = "it does not have the kernel modules that were promoted last";
        pending.failed(OUTPUTS[0], message);
    }
    let has_records = |report: &StatusReport| report.last.is_some();
    let has_records = report.as_ref().is_some_and(has_records);
    let promoted = promoted.check("promoted-files", |findings, state| match state {
        CheckState::Ok if !has_records => "nothing is recorded as promoted".into(),
        CheckState::Ok => "everything is as it was promoted".into(),
        CheckState::Failed => {
            let count = findings.count_failed();
            let verb = if count == 1 { "is" } else { "are" };
            format!("{} {verb} not as promoted", counted(count, "file"))
        }
        CheckState::Unchecked => "not everything could be compared".into(),
    });
    let pending = pending.check("initramfs-refresh", |_, state| {
        match state {
            CheckState::Ok => "it is not due",
            CheckState::Failed => "the initramfs must be rebuilt",
            CheckState::Unchecked => "the record could not be read",
        }
        .into()
    });
    Ok([promoted, pending])
}
