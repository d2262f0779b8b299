use std::path::PathBuf;

use proptest::prelude::*;
use rcgen::{KeyPair, SigningKey as _};

use super::*;
use crate::catalog::Migration;

const MODULE: &[u8] = b"\0asm module";
const MANIFEST: &str = "manifest_version = 1";

struct Signer(KeyPair);

impl Signer {
    fn p256() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    fn ed25519() -> Self {
        Self(KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
    }

    fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.0.sign(message).unwrap())
    }

    fn of_module(&self, module: &[u8]) -> Signature {
        Signature::of_module(&self.sign(module)).unwrap()
    }

    /// As `cosign sign` does it.
    fn of_image(&self, manifest: &str) -> Signature {
        let payload = payload(&digest(manifest.as_bytes()), "cosign container image signature");
        let image = SignedImage { payload: payload.clone(), manifest: manifest.to_owned() };
        Signature::of_image(&self.sign(payload.as_bytes()), image).unwrap()
    }
}

fn payload(digest: &str, kind: &str) -> String {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"r/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
    )
}

fn image_of(module: &[u8], annotations: &serde_json::Value) -> String {
    serde_json::json!({
        "schemaVersion": 2,
        "config": { "mediaType": WASM_CONFIG_TYPE, "digest": digest(b"{}"), "size": 2 },
        "layers": [{ "mediaType": WASM_LAYER_TYPE, "digest": digest(module), "size": module.len() }],
        "annotations": annotations,
    })
    .to_string()
}

/// A file with the keys of these signers.
fn file(folder: &tempfile::TempDir, name: &str, signers: &[&Signer]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, signers.iter().map(|signer| signer.0.public_key_pem()).collect::<String>()).unwrap();
    path
}

fn trusting(signers: &[&Signer]) -> TrustedKeys {
    let folder = tempfile::tempdir().unwrap();
    TrustedKeys::read(&[file(&folder, "ci.pub", signers)]).unwrap()
}

fn vouched(keys: &TrustedKeys, module: &[u8], signatures: &[Signature]) -> Result<Option<String>, String> {
    keys.vouching(module, MANIFEST, &[], signatures).map_err(|error| error.to_string())
}

#[test]
fn without_keys_everything_is_taken() {
    assert_eq!(vouched(&TrustedKeys::default(), MODULE, &[]), Ok(None));
    let junk = Signature::of_module("AAAA").unwrap();
    assert_eq!(vouched(&TrustedKeys::default(), MODULE, &[junk]), Ok(None));
}

#[test]
fn a_trusted_key_vouches_for_the_modules_bytes() {
    let (ci, release, stranger) = (Signer::p256(), Signer::ed25519(), Signer::p256());
    let folder = tempfile::tempdir().unwrap();
    let files = [file(&folder, "ci.pub", &[&ci]), file(&folder, "two.pub", &[&Signer::p256(), &release])];
    let keys = TrustedKeys::read(&files).unwrap();
    assert_eq!(keys.names(), ["ci.pub", "two.pub (1)", "two.pub (2)"]);
    assert_eq!(vouched(&keys, MODULE, &[ci.of_module(MODULE)]).unwrap().as_deref(), Some("ci.pub"));
    let by_second = [stranger.of_module(MODULE), release.of_module(MODULE)];
    assert_eq!(vouched(&keys, MODULE, &by_second).unwrap().as_deref(), Some("two.pub (2)"));
    for (signatures, expected) in [
        (vec![], "it has no signature"),
        (vec![stranger.of_module(MODULE)], "not by one of them"),
        (vec![ci.of_module(b"\0asm another")], "not by one of them"),
        (vec![Signature::of_module("AAAA").unwrap()], "not by one of them"),
    ] {
        let why = vouched(&keys, MODULE, &signatures).unwrap_err();
        assert!(why.contains(expected) && why.contains("ci.pub, two.pub (1)"), "{why}");
        assert!(why.contains("cosign sign-blob") && why.contains("--signature"), "{why}");
    }
}

#[test]
fn no_changed_byte_of_a_module_or_a_signature_is_taken() {
    for signer in [Signer::p256(), Signer::ed25519()] {
        let keys = trusting(&[&signer]);
        let signature = signer.of_module(MODULE);
        for at in 0..MODULE.len() {
            let mut module = MODULE.to_vec();
            module[at] ^= 1;
            assert!(vouched(&keys, &module, std::slice::from_ref(&signature)).is_err(), "byte {at}");
        }
        let value = signature.value().unwrap();
        for at in 0..value.len() {
            let mut value = value.clone();
            value[at] ^= 1;
            let changed = Signature::of_module(&STANDARD.encode(value)).unwrap();
            assert!(vouched(&keys, MODULE, &[changed]).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_signed_image_vouches_for_its_layer_and_for_what_is_noted_on_it() {
    let signer = Signer::p256();
    let keys = trusting(&[&signer]);
    let plain = image_of(MODULE, &serde_json::json!({}));
    assert_eq!(vouched(&keys, MODULE, &[signer.of_image(&plain)]).unwrap().as_deref(), Some("ci.pub"));
    let migrations = vec![Migration { name: "0001.sql".to_owned(), sql: "SELECT 1".to_owned() }];
    let noted = image_of(
        MODULE,
        &serde_json::json!({
            MANIFEST_ANNOTATION: MANIFEST,
            MIGRATIONS_ANNOTATION: serde_json::to_string(&migrations).unwrap(),
        }),
    );
    let signed = [signer.of_image(&noted)];
    assert!(keys.vouching(MODULE, MANIFEST, &migrations, &signed).is_ok());
    let why = |module: &[u8], manifest: &str, migrations: &[Migration], signature: Signature| {
        keys.vouching(module, manifest, migrations, &[signature]).unwrap_err().to_string()
    };
    assert!(why(MODULE, "another", &migrations, signed[0].clone()).contains("another agent.toml"));
    assert!(why(MODULE, MANIFEST, &[], signed[0].clone()).contains("other migrations"));
    assert!(why(b"other", MANIFEST, &migrations, signed[0].clone()).contains("another module"));

    // An agent.toml that is signed without migrations is signed as having none.
    for noted in [
        serde_json::json!({ MANIFEST_ANNOTATION: MANIFEST }),
        serde_json::json!({ MANIFEST_ANNOTATION: MANIFEST, MIGRATIONS_ANNOTATION: "[]" }),
    ] {
        let signed = signer.of_image(&image_of(MODULE, &noted));
        assert!(keys.vouching(MODULE, MANIFEST, &[], std::slice::from_ref(&signed)).is_ok());
        assert!(why(MODULE, MANIFEST, &migrations, signed).contains("other migrations"));
    }
    // Without an agent.toml it says nothing of either.
    assert!(keys.vouching(MODULE, "another", &migrations, &[signer.of_image(&plain)]).is_ok());

    // A signature that holds, put beside another image.
    let mut moved = signer.of_image(&plain);
    moved.image.as_mut().unwrap().manifest = noted;
    assert!(why(MODULE, MANIFEST, &[], moved).contains("another image"));
    // What was signed says what it is for.
    let other = payload(&digest(plain.as_bytes()), "something else");
    let image = SignedImage { payload: other.clone(), manifest: plain.clone() };
    let signature = Signature::of_image(&signer.sign(other.as_bytes()), image).unwrap();
    assert!(why(MODULE, MANIFEST, &[], signature).contains("of the type"));
    // One of the manifest itself is none of its payload.
    let image = SignedImage { payload: payload(&digest(plain.as_bytes()), "x"), manifest: plain.clone() };
    let signature = Signature::of_image(&signer.sign(plain.as_bytes()), image).unwrap();
    assert!(why(MODULE, MANIFEST, &[], signature).contains("not by one of them"));
    for (layers, expected) in [
        (serde_json::json!([]), "found 0"),
        (serde_json::json!([{ "mediaType": "application/x", "digest": digest(MODULE), "size": 1 }]), "application/x"),
    ] {
        let mut image: serde_json::Value = serde_json::from_str(&plain).unwrap();
        image["layers"] = layers;
        assert!(why(MODULE, MANIFEST, &[], signer.of_image(&image.to_string())).contains(expected));
    }
}

#[test]
fn signatures_are_read_as_cosign_writes_them() {
    let signer = Signer::p256();
    let value = signer.sign(MODULE);
    let expected = Signature::of_module(&value).unwrap();
    let wrapped = format!("{}\n{}\n", &value[..20], &value[20..]);
    for text in [
        value.clone(),
        wrapped,
        format!(r#"{{"base64Signature":"{value}","rekorBundle":null}}"#),
        format!(
            r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{{}},
               "messageSignature":{{"messageDigest":{{"algorithm":"SHA2_256","digest":""}},"signature":"{value}"}}}}"#
        ),
        expected.to_text(),
    ] {
        assert_eq!(Signature::parse(&text).as_ref(), Ok(&expected), "{text}");
    }
    let of_image = signer.of_image(&image_of(MODULE, &serde_json::json!({})));
    assert_eq!(Signature::parse(&of_image.to_text()), Ok(of_image));
    for text in ["", "no base64!", "{}", "{\"signature\":1}", "{\"base64Signature\":\"!\"}", &"A".repeat(1000)] {
        let error = Signature::parse(text).unwrap_err().to_string();
        assert!(error.contains("cosign sign-blob"), "{error}");
    }
    // PostgreSQL keeps no such text.
    let image = SignedImage { payload: "\0".to_owned(), manifest: String::new() };
    assert!(Signature::of_image(&value, image).is_err());
}

#[test]
fn keys_that_cannot_be_used_are_named_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for (text, expected) in [
        (other.public_key_pem(), "P-256"),
        (other.serialize_pem(), "BEGIN PUBLIC KEY"),
        (String::new(), "BEGIN PUBLIC KEY"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(), "P-256"),
        ("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n".to_owned(), "not PEM"),
        ("x".repeat(100_000), "bytes"),
    ] {
        let path = folder.path().join("k.pub");
        std::fs::write(&path, text).unwrap();
        let error = TrustedKeys::read(&[path]).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("k.pub"), "{error}");
    }
    assert!(matches!(TrustedKeys::read(&[folder.path().join("gone.pub")]), Err(KeysError::Unreadable { .. })));
    let many: Vec<_> = (0..=KEYS_MAX).map(|_| Signer::ed25519()).collect();
    let many = file(&folder, "many.pub", &many.iter().collect::<Vec<_>>());
    assert!(matches!(TrustedKeys::read(&[many]), Err(KeysError::TooMany)));
}

#[test]
fn a_revision_keeps_its_newest_signatures() {
    let of = |number: usize| Signature::of_module(&STANDARD.encode([u8::try_from(number).unwrap(); 3])).unwrap();
    let known: Vec<_> = (0..SIGNATURES_MAX).map(of).collect();
    assert_eq!(merged(&[of(0)], &known), known);
    let all = merged(&[of(100)], &known);
    assert_eq!((all.len(), &all[0], &all[1]), (SIGNATURES_MAX, &of(100), &of(0)));
    // By what they hold, too.
    let large = |payload: &str| {
        let manifest = "x".repeat(usize::try_from(SIGNATURES_BYTES_MAX / 2 - 100).unwrap());
        Signature::of_image("AAAA", SignedImage { payload: payload.to_owned(), manifest }).unwrap()
    };
    let large = ["a", "b", "c"].map(large);
    assert_eq!(merged(&large[..1], &large[1..]), large[..2]);
}

proptest! {
    #[test]
    fn any_text_is_a_signature_or_refused_and_vouches_for_nothing(text in ".{0,200}", bytes in any::<Vec<u8>>()) {
        let keys = trusting(&[&Signer::p256()]);
        for text in [text, STANDARD.encode(&bytes), format!("{{\"base64Signature\":\"{}\"}}", STANDARD.encode(bytes))] {
            if let Ok(signature) = Signature::parse(&text) {
                prop_assert!(vouched(&keys, MODULE, &[signature]).is_err());
            }
        }
    }
}
