"""The engine `openvino`: OpenVINO GenAI behind the three verbs."""
