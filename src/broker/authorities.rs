//! `broker.ca`: whom TLS trusts.
//!
//! In:    the path of a PEM file.
//! Out:   its text.
//! Never: checks a certificate (the TLS library does).

use std::path::Path;

use super::BrokerError;

/// Reads the file, and looks whether there is a certificate in it at all.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn read(ca: &Path) -> Result<String, BrokerError> {
    let wrong = |what: String| {
        let path = ca.display();
        BrokerError(format!("broker.ca `{path}` {what}: name a PEM file with certificates"))
    };
    let text =
        std::fs::read_to_string(ca).map_err(|error| wrong(format!("cannot be read ({error})")))?;
    if text.contains("BEGIN CERTIFICATE") {
        Ok(text)
    } else {
        Err(wrong("holds no certificate".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_certificate_is_named() {
        let here = Path::new(file!());
        let error = read(&here.join("missing.pem")).expect_err("there is no such file").0;
        assert!(error.contains("missing.pem") && error.contains("cannot be read"), "{error}");
    }
}
