//! A limiter with listeners of a test's own before an origin, certificates for them, and other
//! people's clients.

use std::{ffi::OsStr, time::Duration};

use limiter_tests::{
    netns::Namespace,
    origin::Origin,
    process::{Finished, Limiter, finish},
    wait::eventually,
    world::SINKS,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use crate::support::SOON;

/// How long another program may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whoever issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server with these names.
    pub(crate) fn server(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        self.issue(CertificateParams::new(names).unwrap())
    }

    /// For a client, with this serial number.
    pub(crate) fn client(&self, serial: u64) -> Pair {
        let mut params = CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// For a client with these alternative names: DNS names, or URIs.
    pub(crate) fn client_named(&self, names: &[&str]) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names
            .iter()
            .map(|&name| match name.try_into().unwrap() {
                uri if name.contains("://") => SanType::URI(uri),
                dns => SanType::DnsName(dns),
            })
            .collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// For a client, out of date.
    pub(crate) fn expired_client(&self) -> Pair {
        self.client_until(1_580_515_200)
    }

    /// For a client, good until this moment in Unix seconds.
    pub(crate) fn client_until(&self, not_after: u64) -> Pair {
        let mut params = CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_after);
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Pair {
        // Not the authority's, or it would seem to have signed itself.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "limiter test");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// The list of revoked certificates.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// The limiter before an origin.
pub(crate) struct Edge {
    pub(crate) limiter: Limiter,
    pub(crate) origin: Origin,
    pub(crate) namespace: Namespace,
}

impl Edge {
    /// With these lines of `[http]` and these listeners, and one route open to all; not started.
    pub(crate) fn prepare(http: &str, listeners: &str) -> Self {
        let namespace = Namespace::new("edge");
        let origin = Origin::start(&namespace);
        let configuration = configuration(&origin, http, listeners);
        let limiter = Limiter::prepare(&namespace, &configuration);
        Self { limiter, origin, namespace }
    }

    pub(crate) fn start(http: &str, listeners: &str) -> Self {
        let mut edge = Self::prepare(http, listeners);
        edge.limiter.restart();
        edge
    }

    /// Has the route ask for this scheme; before it is started.
    pub(crate) fn protect(&self, name: &str, scheme: &str) {
        let path = self.limiter.configuration();
        let open = std::fs::read_to_string(&path).unwrap();
        let closed = open.replace("auth = \"none\"", &format!("auth = [\"{name}\"]"));
        self.limiter.configure_exactly(&format!("{closed}\n{scheme}"));
    }

    /// Puts another configuration in force.
    #[track_caller]
    pub(crate) fn reload(&self, http: &str, listeners: &str) {
        self.limiter.configure(&configuration(&self.origin, http, listeners));
        self.limiter.cli(&["reload"]).succeeded();
    }

    /// Waits until exactly so many were refused with this label.
    #[track_caller]
    pub(crate) fn refused(&self, label: &str, count: u64) {
        eventually(SOON, &format!("{count} of {label}"), || {
            self.limiter.status().refused.get(label).copied().unwrap_or(0) == count
        });
    }

    /// Writes a certificate as `NAME.pem` and `NAME.key`, the key for its owner only.
    pub(crate) fn write_pair(&self, name: &str, pair: &Pair) {
        self.write_private(&format!("{name}.key"), &pair.key);
        self.limiter.scratch().write(&format!("{name}.pem"), &pair.certificate);
    }

    fn write_private(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.limiter.scratch().write(name, text);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// As [`Self::python`], with what `cargo xtask test` installs for tests beside it.
    #[track_caller]
    pub(crate) fn python_peer(
        namespace: &Namespace,
        limiter: &Limiter,
        script: &str,
        arguments: &[&str],
    ) -> Finished {
        let installed = std::env::var_os("LIMITER_PEERS").map_or_else(
            || limiter_tests::process::binary().parent().unwrap().join("../peers"),
            Into::into,
        );
        let path = format!("{}/data/peers/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut command = namespace.command("/usr/bin/python3");
        command.arg(path).args(arguments).current_dir(limiter.directory());
        command.env("PYTHONPATH", installed);
        finish(&mut command, limiter.scratch(), PATIENCE)
    }

    /// Runs a program in the namespace, in the directory of this test.
    #[track_caller]
    pub(crate) fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Finished {
        let mut command = self.namespace.command(program);
        command.args(arguments).current_dir(self.limiter.directory());
        finish(&mut command, self.limiter.scratch(), PATIENCE)
    }

    /// `curl`, saying nothing of its progress and trusting `ca.pem`.
    #[track_caller]
    pub(crate) fn curl(&self, arguments: &[&str]) -> Finished {
        let mut all = vec!["--silent", "--show-error", "--cacert", "ca.pem", "--max-time", "20"];
        all.extend(arguments);
        self.run("curl", &all)
    }

    /// A script of `tests/data/peers`, by the distribution's Python, which has its libraries.
    #[track_caller]
    pub(crate) fn python(&self, script: &str, arguments: &[&str]) -> Finished {
        let path = format!("{}/data/peers/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut all = vec![path.as_str()];
        all.extend(arguments);
        self.run("/usr/bin/python3", &all)
    }
}

fn configuration(origin: &Origin, http: &str, listeners: &str) -> String {
    format!(
        "{SINKS}[http]\n{http}\n{listeners}\n\
         [[http.upstream]]\nname = \"api\"\nservers = [\"{}\"]\n\
         [[http.route]]\nauth = \"none\"\nlimits = \"none\"\n\
         [escalation]\nenabled = false\n",
        origin.url()
    )
}
