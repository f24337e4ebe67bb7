#!/usr/bin/env python3
"""Asks a TLS port, by sslyze, for everything that it should not do. usage: tls_scan.py HOST PORT"""
import sys

from sslyze import ScanCommand, Scanner, ServerNetworkLocation, ServerScanRequest

OLD = {
    ScanCommand.SSL_2_0_CIPHER_SUITES,
    ScanCommand.SSL_3_0_CIPHER_SUITES,
    ScanCommand.TLS_1_0_CIPHER_SUITES,
    ScanCommand.TLS_1_1_CIPHER_SUITES,
}
NEW = {ScanCommand.TLS_1_2_CIPHER_SUITES, ScanCommand.TLS_1_3_CIPHER_SUITES}
MORE = {
    ScanCommand.TLS_COMPRESSION,
    ScanCommand.TLS_1_3_EARLY_DATA,
    ScanCommand.SESSION_RENEGOTIATION,
    ScanCommand.HEARTBLEED,
    ScanCommand.ROBOT,
    ScanCommand.OPENSSL_CCS_INJECTION,
    ScanCommand.TLS_FALLBACK_SCSV,
}


def main(host, port):
    location = ServerNetworkLocation(hostname="localhost", ip_address=host, port=int(port))
    scanner = Scanner()
    scanner.queue_scans([ServerScanRequest(server_location=location, scan_commands=OLD | NEW | MORE)])
    (result,) = scanner.get_results()
    assert result.scan_result is not None, result.connectivity_error_trace
    scan = result.scan_result

    def of(command):
        attempt = getattr(scan, command.value)
        assert attempt.result is not None, (command, attempt.error_reason, attempt.error_trace)
        return attempt.result

    for command in sorted(OLD, key=lambda command: command.value):
        accepted = of(command).accepted_cipher_suites
        assert not accepted, (command, accepted)
        print(f"{command.value}: refused")
    for command in sorted(NEW, key=lambda command: command.value):
        accepted = [suite.cipher_suite for suite in of(command).accepted_cipher_suites]
        assert accepted, command
        for suite in accepted:
            assert suite.name.startswith(("TLS_ECDHE_", "TLS_AES_", "TLS_CHACHA20_")), suite.name
            assert "GCM" in suite.name or "CHACHA20" in suite.name, suite.name
        print(f"{command.value}: {' '.join(sorted(suite.name for suite in accepted))}")
    assert not of(ScanCommand.TLS_COMPRESSION).supports_compression
    assert not of(ScanCommand.TLS_1_3_EARLY_DATA).supports_early_data
    renegotiation = of(ScanCommand.SESSION_RENEGOTIATION)
    assert not renegotiation.is_vulnerable_to_client_renegotiation_dos
    assert renegotiation.supports_secure_renegotiation
    assert not of(ScanCommand.HEARTBLEED).is_vulnerable_to_heartbleed
    assert not of(ScanCommand.OPENSSL_CCS_INJECTION).is_vulnerable_to_ccs_injection
    assert "NOT_VULNERABLE" in of(ScanCommand.ROBOT).robot_result.name
    print("compression, early data, renegotiation by the client, Heartbleed, CCS injection, ROBOT: none")
    print("OK")


if __name__ == "__main__":
    main(*sys.argv[1:])
